"""A worker without a model, as a process of its own: `python -m tests.fakes.worker --name coder --cache ADDRESS`.

It serves, registers and answers health checks like a real one. What it does is said by the last message of a prompt:
`count N` sends N deltas, `hang` admits and then waits, `silent` waits before it admits, `half` stops after the first
delta, `cut` ends there without a finish; `tell N SECONDS` says N numbered tokens at that pace and can be resumed;
anything else is answered with the worker's id.
"""

import argparse
import asyncio
import json
import sys
import time
import uuid
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import uvloop

from localcode.cache.v1 import cache_pb2
from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)
from services.shared.errors import Unsupported
from services.shared.grpc_runtime import HealthService, running_server, wait_for_stop_signal
from services.shared.registration import registered
from services.shared.settings import LogSettings
from services.shared.telemetry import configure_logging
from tests.fakes.inference import admitted, content, finish


class EchoService(InferenceServiceServicer):
    """Does what prompts say, and reports what happens to them."""

    def __init__(self, name: str, worker_id: str, slot_count: int) -> None:
        self.name, self.worker_id, self.slot_count = name, worker_id, slot_count
        self.running_count = 0

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        self.running_count += 1
        report("started", request_id=request.request_id, request_class=request.context.request_class)
        try:
            async for event in self._answer(_command(request), list(request.resume_tokens)):
                yield event
        except (asyncio.CancelledError, GeneratorExit):
            report("cancelled", request_id=request.request_id)
            raise
        finally:
            self.running_count -= 1

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:
        description = pb.ModelDescription(name=self.name, context_length=4096, loaded_at_seconds=1_760_000_000)
        return pb.DescribeResponse(models=[description])

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        return pb.TokenizeResponse(token_ids=request.text.encode())

    async def RenderPrompt(self, request: pb.RenderPromptRequest, context: Any) -> pb.RenderPromptResponse:
        raise Unsupported("There is no chat template here.")

    def registration(self, address: str) -> cache_pb2.Worker:
        model = cache_pb2.WorkerModel(name=self.name, context_length=4096, slot_count=self.slot_count)
        load = cache_pb2.WorkerLoad(running_count=self.running_count)
        return cache_pb2.Worker(worker_id=self.worker_id, address=address, models=[model], load=load)

    async def _answer(self, command: list[str], resume_tokens: list[int]) -> AsyncIterator[pb.GenerateResponse]:
        match command:
            case ["silent"]:
                await asyncio.Event().wait()
            case ["hang"]:
                yield admitted(model=self.name)
                await asyncio.Event().wait()
            case ["half"]:
                yield admitted(model=self.name)
                yield content("half")
                await asyncio.Event().wait()
            case ["cut"]:
                yield admitted(model=self.name)
                yield content("half")
            case ["count", count]:
                yield admitted(model=self.name)
                for number in range(int(count)):
                    yield content(f"{number} ")
                yield finish()
            case ["tell", count, seconds]:
                yield admitted(model=self.name)
                if resume_tokens:
                    yield content("".join(f"{number} " for number in resume_tokens), token_ids=resume_tokens)
                began = time.monotonic()
                for number in range(len(resume_tokens), int(count)):
                    due = began + (number - len(resume_tokens) + 1) * float(seconds)
                    await asyncio.sleep(due - time.monotonic())  # a late step is no reason for the next to be late
                    yield content(f"{number} ", token_ids=[number])
                yield finish(completion_token_count=int(count))
            case _:
                yield admitted(model=self.name)
                yield content(self.worker_id)
                yield finish()


def report(event: str, **fields: Any) -> None:
    """Tells the test that started this process."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def _command(request: pb.GenerateRequest) -> list[str]:
    text = request.chat.messages[-1].content[0].text if request.chat.messages else request.text
    return text.split()


async def serve(arguments: argparse.Namespace) -> None:
    """Serves until a stop signal."""
    service = EchoService(arguments.name, arguments.worker_id, arguments.slots)
    register = partial(add_InferenceServiceServicer_to_server, service)
    health = HealthService()
    async with running_server(arguments.listen, register, health_service=health, stop_grace_seconds=0.2) as address:
        await health.set_serving(True)
        async with registered(arguments.cache, partial(service.registration, address)):
            report("ready", address=address)
            await wait_for_stop_signal()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="coder")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--worker-id", default=uuid.uuid4().hex)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--slots", type=int, default=4)
    configure_logging(
        LogSettings(level="warning", format="json"), process="fake-worker"
    )  # to stderr, not among the reports
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
