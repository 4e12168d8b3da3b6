"""One worker as the router sees it: its channel, its health, and the requests this router has open there."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import grpc
from grpc.aio import Channel

from localcode.cache.v1 import cache_pb2
from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceStub
from services.router.placement import Candidate, others_load

REPORT_AGE_SECONDS: Final = 2.5  # a heartbeat and a poll, and some
_DESCRIBE_TIMEOUT_SECONDS: Final = 2.0


class RoutedWorker:
    """A worker that registered. It takes requests while its health service says so."""

    def __init__(
        self, registration: cache_pb2.Worker, channel: Channel, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.registration = registration
        self.channel = channel
        self.stub = InferenceServiceStub(channel)
        self.is_healthy = False
        self.failed_check_count = 0
        self.unlisted_since: float | None = None
        self.last_chosen = 0
        self.open_count = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.suspected = asyncio.Event()
        self._clock = clock
        self._ended_at: deque[float] = deque()
        self._descriptions: tuple[pb.ModelDescription, ...] = ()

    @property
    def worker_id(self) -> str:
        """Its unique name."""
        return self.registration.worker_id

    def runs(self, model: str) -> bool:
        """Says whether it runs a model, by name."""
        return any(known.name == model for known in self.registration.models)

    def candidate(self, model: str) -> Candidate:
        """Itself as a choice for a request."""
        load = self.registration.load
        reported = load.running_count + load.waiting_count
        slots = next((known.slot_count for known in self.registration.models if known.name == model), 0)
        return Candidate(
            worker_id=self.worker_id,
            load=self.open_count + others_load(reported, self.open_count, self._recently_ended()),
            slot_count=slots,
            last_chosen=self.last_chosen,
            is_draining=self.registration.draining,
        )

    @contextmanager
    def open_request(self) -> Iterator[None]:
        """Counts a request as open until left."""
        self.open_count += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.open_count -= 1
            self._ended_at.append(self._clock())
            if self.open_count == 0:
                self.idle.set()

    async def descriptions(self) -> tuple[pb.ModelDescription, ...]:
        """Describes its models; a process runs the same ones as long as it lives, so it is asked once."""
        if not self._descriptions:
            try:
                answer = await self.stub.Describe(pb.DescribeRequest(), timeout=_DESCRIBE_TIMEOUT_SECONDS)
            except grpc.aio.AioRpcError:
                return ()
            self._descriptions = tuple(answer.models)
        return self._descriptions

    def _recently_ended(self) -> int:
        oldest = self._clock() - REPORT_AGE_SECONDS
        while self._ended_at and self._ended_at[0] < oldest:
            self._ended_at.popleft()
        return len(self._ended_at)
