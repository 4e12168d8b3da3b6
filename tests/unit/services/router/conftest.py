import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from prometheus_client import CollectorRegistry

from localcode.cache.v1 import cache_pb2
from localcode.inference.v1 import inference_pb2 as pb
from services.router.flights import Flights
from services.router.forward import Forwarder
from services.router.gate import Gate
from services.router.lineages import Lineages
from services.router.metrics import RouterMetrics
from services.router.workers import WorkerDirectory
from tests.fakes.inference import FakeInferenceService, serving


class FakeCache:
    """A cache service that lists what it is told to, or is away."""

    def __init__(self) -> None:
        self.workers: list[cache_pb2.Worker] = []
        self.is_away = False
        self.records: list[cache_pb2.RecordLineageRequest] = []
        self.lookups: list[cache_pb2.LookupLineageRequest] = []
        self.match = cache_pb2.LookupLineageResponse()
        self.list_count = 0

    async def ListWorkers(self, request: Any, *, timeout: float) -> cache_pb2.ListWorkersResponse:  # noqa: ASYNC109
        self._check()
        self.list_count += 1
        return cache_pb2.ListWorkersResponse(workers=self.workers)

    async def RecordLineage(self, request: Any, *, timeout: float) -> cache_pb2.RecordLineageResponse:  # noqa: ASYNC109
        self._check()
        self.records.append(request)
        return cache_pb2.RecordLineageResponse()

    async def LookupLineage(self, request: Any, *, timeout: float) -> cache_pb2.LookupLineageResponse:  # noqa: ASYNC109
        self._check()
        self.lookups.append(request)
        return self.match

    def _check(self) -> None:
        if self.is_away:
            raise AioRpcError(StatusCode.UNAVAILABLE, Metadata(), Metadata())


class Rig:
    """A directory, a forwarder and real gRPC workers behind them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.stops: dict[str, AsyncExitStack] = {}
        self.addresses: dict[str, str] = {}
        self.cache = FakeCache()
        self.registry = CollectorRegistry()
        self.metrics = RouterMetrics(self.registry)
        self.directory = WorkerDirectory(self.cache)
        self.lineages = Lineages(self.cache)
        self.gate = Gate(self.directory, queue_size=8)
        self.flights = Flights(rejoin_seconds=5)
        self.gate.make_room = self.flights.make_room
        self.forwarder = self.make_forwarder()

    def make_forwarder(
        self, *, worker_wait_seconds: float = 5, resume_wait_seconds: float = 5, **more: Any
    ) -> Forwarder:
        return Forwarder(
            self.directory, self.gate, self.lineages, self.metrics, worker_wait_seconds=worker_wait_seconds,
            resume_wait_seconds=resume_wait_seconds, **more,
        )  # fmt: skip

    async def start_worker(self, worker_id: str, *, model: str = "coder", slots: int = 4) -> FakeInferenceService:
        service = FakeInferenceService()
        stop = AsyncExitStack()
        self._stack.push_async_callback(stop.aclose)
        address = await stop.enter_async_context(serving(service))
        self.stops[worker_id], self.addresses[worker_id] = stop, address
        models = [cache_pb2.WorkerModel(name=model, slot_count=slots, context_length=4096)]
        self.cache.workers.append(cache_pb2.Worker(worker_id=worker_id, address=address, models=models))
        return service

    async def stop_worker(self, worker_id: str) -> None:
        """Ends it as a crash would: it stays listed until its lease ends."""
        await self.stops.pop(worker_id).aclose()

    def unlist(self, worker_id: str) -> None:
        self.cache.workers = [worker for worker in self.cache.workers if worker.worker_id != worker_id]

    async def until_healthy(self, *worker_ids: str) -> None:
        await until(lambda: {w.worker_id for w in self.directory.workers if w.is_healthy} == set(worker_ids))


async def until(condition: Any, *, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
async def cold_rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """A rig whose directory does not watch yet."""
    monkeypatch.setattr("services.router.workers.POLL_SECONDS", 0.05)
    monkeypatch.setattr("services.router.health.UNSURE_CHECK_SECONDS", 0.05)
    async with AsyncExitStack() as stack:
        rig = Rig(stack)
        yield rig
        await rig.flights.aclose()
        await rig.lineages.close()


@pytest.fixture
async def rig(cold_rig: Rig) -> AsyncIterator[Rig]:
    async with cold_rig.directory.watching():
        yield cold_rig


@pytest.fixture
def request_() -> pb.GenerateRequest:
    message = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text="Hi")])
    return pb.GenerateRequest(request_id="r1", model="coder", chat=pb.ChatPrompt(messages=[message]))
