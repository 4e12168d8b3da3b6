"""An inference service that says what a test tells it to, served over real gRPC on a loopback port."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from grpc.aio import Server

from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)
from localcode.router.v1 import router_pb2
from localcode.router.v1.router_pb2_grpc import RouterServiceServicer, add_RouterServiceServicer_to_server
from services.shared.grpc_runtime import HealthService, running_server

Step = pb.GenerateResponse | float | Exception | asyncio.Event
Script = Callable[[pb.GenerateRequest], list[Step]]


def admitted(*, model: str = "coder", prompt_token_count: int = 10) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        admitted=pb.Admitted(model=model, worker_id="worker-1", prompt_token_count=prompt_token_count, max_tokens=100)
    )


def progress(phase: pb.Phase, **counts: Any) -> pb.GenerateResponse:
    return pb.GenerateResponse(progress=pb.Progress(phase=phase, **counts))


def content(
    text: str, *, logprobs: list[pb.TokenLogprob] | None = None, token_ids: Sequence[int] = ()
) -> pb.GenerateResponse:
    return pb.GenerateResponse(delta=pb.Delta(content=text, logprobs=logprobs, token_ids=token_ids))


def reasoning(text: str, *, token_ids: Sequence[int] = ()) -> pb.GenerateResponse:
    return pb.GenerateResponse(delta=pb.Delta(reasoning=text, token_ids=token_ids))


def tool_call(index: int, arguments: str = "", *, id: str = "", name: str = "") -> pb.GenerateResponse:  # noqa: A002
    part = pb.ToolCallDelta(index=index, id=id, name=name, arguments=arguments)
    return pb.GenerateResponse(delta=pb.Delta(tool_call=part))


def finish(reason: pb.FinishReason = pb.FINISH_REASON_STOP, **usage: int) -> pb.GenerateResponse:
    counts = {"prompt_token_count": 10, "completion_token_count": 3, "cached_token_count": 8, **usage}
    timings = pb.Timings(queue_seconds=0.1, prefill_seconds=0.5, decode_seconds=1.5)
    return pb.GenerateResponse(finish=pb.Finish(reason=reason, usage=pb.Usage(**counts), timings=timings))


def spoken(*texts: str) -> list[Step]:
    return [admitted(), *(content(text) for text in texts), finish()]


class FakeInferenceService(InferenceServiceServicer):
    """Plays a script for each request: events are sent, numbers slept, exceptions raised, asyncio events awaited."""

    def __init__(self) -> None:
        self.script: Script = lambda _request: spoken("Hello", " world")
        self.requests: list[pb.GenerateRequest] = []
        self.cancelled_ids: list[str] = []
        self.cancelled = asyncio.Event()
        self.running_count = 0
        self.models = [
            pb.ModelDescription(
                name="coder",
                aliases=["default"],
                context_length=32768,
                capabilities=[pb.CAPABILITY_CHAT, pb.CAPABILITY_TOOLS],
                owner="Qwen",
                loaded_at_seconds=1_760_000_000,
                parameter_count=1_500_000_000,
            ),
            pb.ModelDescription(name="small", context_length=16384),
        ]

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        self.requests.append(request)
        self.running_count += 1
        try:
            for step in self.script(request):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, pb.GenerateResponse):
                    yield step
                else:
                    await asyncio.sleep(step)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled_ids.append(request.request_id)
            self.cancelled.set()
            raise
        finally:
            self.running_count -= 1

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:
        return pb.DescribeResponse(models=self.models)


class FakeRouterService(RouterServiceServicer):
    """Reports the status that a test gave it."""

    def __init__(self, status: router_pb2.GetStatusResponse) -> None:
        self.status = status

    async def GetStatus(self, request: router_pb2.GetStatusRequest, context: Any) -> router_pb2.GetStatusResponse:
        return self.status


@asynccontextmanager
async def serving(inference: FakeInferenceService, router: FakeRouterService | None = None) -> AsyncIterator[str]:
    """Serves the fakes and yields their address; without a router it is a lone worker."""

    def register(server: Server) -> None:
        add_InferenceServiceServicer_to_server(inference, server)
        if router is not None:
            add_RouterServiceServicer_to_server(router, server)

    health = HealthService()
    async with running_server("127.0.0.1:0", register, health_service=health, stop_grace_seconds=0.1) as address:
        await health.set_serving(True)
        yield address
