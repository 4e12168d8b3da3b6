"""Router, cache service and fake workers as real processes."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode

from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceStub
from localcode.router.v1 import router_pb2
from localcode.router.v1.router_pb2_grpc import RouterServiceStub
from services.shared.errors import error_info
from services.shared.grpc_runtime import open_channel
from tests.fakes.processes import Process, running, until_serving

pytestmark = pytest.mark.integration
CONFIGURATION = """
[router]
worker_wait_seconds = 3

[models.coder]
kind = "llama"
aliases = ["default"]
context = 4096

[models.absent]
kind = "llama"
"""


class System:
    """A cache service, a router and the workers that a test adds."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.directory, self.stack = directory, stack
        self.cache_address = f"unix:{directory}/c.sock"
        self.router_address = f"unix:{directory}/r.sock"
        self.workers: dict[str, Process] = {}
        self.cache: Process
        self.router: Process

    async def start(self, **variables: str) -> None:
        (self.directory / "localcode.toml").write_text(CONFIGURATION)
        await self.start_cache()
        self.router = await self.start_router(self.router_address, **variables)
        channel = await self.stack.enter_async_context(open_channel(self.router_address))
        self.inference, self.status_stub = InferenceServiceStub(channel), RouterServiceStub(channel)

    async def start_router(self, address: str, **variables: str) -> Process:
        router = await self.stack.enter_async_context(
            running(
                "services.router",
                LOCALCODE_CONFIG=str(self.directory / "localcode.toml"),
                LOCALCODE_ROUTER_LISTEN=address,
                LOCALCODE_ROUTER_CACHE_ADDRESS=self.cache_address,
                **variables,
            )
        )
        await until_serving(address)
        return router

    async def start_cache(self) -> None:
        self.cache = await self.stack.enter_async_context(
            running("services.cache", LOCALCODE_CACHE_LISTEN=self.cache_address)
        )
        await until_serving(self.cache_address)

    async def start_worker(self, worker_id: str, *, name: str = "coder", slots: int = 4) -> Process:
        arguments = ("--name", name, "--worker-id", worker_id, "--cache", self.cache_address, "--slots", str(slots))
        worker = await self.stack.enter_async_context(running("tests.fakes.worker", *arguments))
        self.workers[worker_id] = worker
        return worker

    async def status(self) -> router_pb2.GetStatusResponse:
        return await self.status_stub.GetStatus(router_pb2.GetStatusRequest(), timeout=5)

    async def until_healthy(self, *worker_ids: str) -> None:
        async with asyncio.timeout(20):
            while {w.worker.worker_id for w in (await self.status()).workers if w.healthy} != set(worker_ids):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def generate(self, text: str, *, model: str = "coder", request_id: str = "r1") -> grpc.aio.UnaryStreamCall:
        message = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text=text)])
        request = pb.GenerateRequest(request_id=request_id, model=model, chat=pb.ChatPrompt(messages=[message]))
        return self.inference.Generate(request, timeout=30)

    async def answer(self, text: str, *, model: str = "coder") -> str:
        return "".join([event.delta.content async for event in self.generate(text, model=model)])


async def next_but_routed(call: grpc.aio.UnaryStreamCall) -> pb.GenerateResponse:
    """Reads the next event that comes from the worker."""
    event = await call.read()
    return await call.read() if event.HasField("routed") else event


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with AsyncExitStack() as stack:
        system = System(tmp_path, stack)
        await system.start()
        yield system


async def test_requests_are_spread_over_two_workers(system: System) -> None:
    await system.start_worker("a")
    await system.start_worker("b")
    await system.until_healthy("a", "b")
    answers = Counter([await system.answer("who?", model=model) for model in ("coder", "default", "", "auto") * 2])
    assert answers == {"a": 4, "b": 4}
    status = await system.status()
    assert [(count.request_class, count.count) for count in status.class_counts] == [("chat", 8)]
    assert (status.default_model, status.cache_reachable) == ("coder", True)


async def test_the_whole_interface_is_forwarded(system: System) -> None:
    await system.start_worker("a")
    await system.until_healthy("a")
    tokens = await system.inference.Tokenize(pb.TokenizeRequest(model="default", text="AB"), timeout=5)
    assert list(tokens.token_ids) == [65, 66]
    models = (await system.inference.Describe(pb.DescribeRequest(), timeout=5)).models
    assert [(m.name, m.context_length, m.loaded_at_seconds > 0) for m in models] == [
        ("coder", 4096, True),
        ("absent", 0, False),
    ]
    assert list(models[0].aliases) == ["default"]
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await system.inference.RenderPrompt(pb.RenderPromptRequest(model="coder"), timeout=5)
    assert refusal.value.code() is StatusCode.UNIMPLEMENTED


async def test_a_worker_killed_before_its_first_token_is_replaced_unseen(system: System) -> None:
    first = await system.start_worker("a")
    await system.until_healthy("a")
    call = system.generate("silent")
    reading = asyncio.create_task(next_but_routed(call))
    await first.until("started")
    await system.start_worker("b")
    await system.until_healthy("a", "b")
    await first.kill()
    await system.workers["b"].until("started", seconds=10)
    assert not reading.done()
    call.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert (await system.workers["b"].until("cancelled", seconds=5))["request_id"] == "r1"


async def test_requests_succeed_right_after_a_worker_was_killed(system: System) -> None:
    await system.start_worker("a")
    await system.start_worker("b")
    await system.until_healthy("a", "b")
    await system.workers["a"].kill()
    assert [await system.answer("who?") for _ in range(6)] == ["b"] * 6


async def test_a_worker_killed_in_the_middle_of_its_answer_is_an_error(system: System) -> None:
    await system.start_worker("a")
    await system.start_worker("b")
    await system.until_healthy("a", "b")
    call = system.generate("half")
    assert (await next_but_routed(call)).HasField("admitted")
    assert (await call.read()).delta.content == "half"
    serving = next(worker for worker in system.workers.values() if any(e["event"] == "started" for e in worker.events))
    await serving.kill()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()
    assert failure.value.code() is StatusCode.UNAVAILABLE
    assert error_info(failure.value).reason == "worker_lost"


async def test_a_stream_that_ends_without_finish_is_an_error(system: System) -> None:
    await system.start_worker("a")
    await system.until_healthy("a")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await system.answer("cut")
    assert error_info(failure.value).reason == "worker_lost"


async def test_a_restarted_worker_takes_over_a_waiting_request(system: System) -> None:
    worker = await system.start_worker("a")
    await system.until_healthy("a")
    await worker.kill()
    waiting = asyncio.create_task(system.answer("who?"))
    await asyncio.sleep(0.2)
    await system.start_worker("b")
    assert await waiting == "b"


async def test_without_a_living_worker_the_client_is_told_to_come_back(system: System) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await system.answer("who?", model="absent")
    assert refusal.value.code() is StatusCode.UNAVAILABLE
    info = error_info(refusal.value)
    assert (info.reason, float(info.metadata["retry_after_seconds"]) > 0) == ("no_worker", True)


async def test_an_unknown_model_is_refused_at_once(system: System) -> None:
    async with asyncio.timeout(2):
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await system.answer("who?", model="gpt-5")
    assert refusal.value.code() is StatusCode.NOT_FOUND
    assert error_info(refusal.value).reason == "model_not_found"
    assert "coder" in (refusal.value.details() or "")


async def test_serving_goes_on_without_the_cache_service_and_after_its_return(system: System) -> None:
    await system.start_worker("a")
    await system.until_healthy("a")
    await system.cache.kill()
    for _ in range(5):
        assert await system.answer("who?") == "a"
        await asyncio.sleep(0.3)
    async with asyncio.timeout(10):
        while (await system.status()).cache_reachable:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert await system.answer("who?") == "a"
    await system.start_cache()
    await system.start_worker("b")
    await system.until_healthy("a", "b")
    assert {await system.answer("who?") for _ in range(2)} == {"a", "b"}


async def test_a_client_that_leaves_cancels_the_workers_request(system: System) -> None:
    worker = await system.start_worker("a")
    await system.until_healthy("a")
    call = system.generate("hang", request_id="r7")
    assert (await next_but_routed(call)).HasField("admitted")
    call.cancel()
    assert (await worker.until("cancelled", seconds=2))["request_id"] == "r7"


async def test_a_client_that_stops_reading_and_leaves_cancels_the_workers_request(system: System) -> None:
    worker = await system.start_worker("a")
    await system.until_healthy("a")
    call = system.generate("count 10000000")
    assert (await next_but_routed(call)).HasField("admitted")
    await asyncio.sleep(0.5)  # flow control has stopped the router's writes by now
    call.cancel()
    await worker.until("cancelled", seconds=5)
    assert (await system.status()).workers[0].open_request_count == 0


async def test_a_worker_that_stops_cleanly_is_gone_at_once(system: System) -> None:
    await system.start_worker("a")
    await system.start_worker("b")
    await system.until_healthy("a", "b")
    system.workers["a"].signal(signal.SIGTERM)
    await system.workers["a"].wait()
    assert [await system.answer("who?") for _ in range(4)] == ["b"] * 4
    await system.until_healthy("b")


async def test_the_router_stops_cleanly(system: System) -> None:
    await system.start_worker("a")
    await system.until_healthy("a")
    assert await system.router.terminate() == 0
