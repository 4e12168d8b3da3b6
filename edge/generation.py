"""Reads the events of one request's generations, whichever comes first, without losing or piling up any."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

import grpc
import structlog

from edge.answer import Event
from edge.client import GenerateCall
from edge.resume import whole_answer
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import BackendFailed, ServiceError

_MAX_WAITING_EVENTS: Final = 256  # a client that reads slower than this slows its own answer down
_END_SECONDS: Final = 1.0
_log = structlog.get_logger(__name__)
Failure = ServiceError | grpc.aio.AioRpcError


class Generation:
    """One call for each choice, read side by side. Closing it cancels what still runs."""

    def __init__(
        self, start: Callable[[pb.GenerateRequest], GenerateCall], requests: Sequence[pb.GenerateRequest], *,
        peer_count: int = 1,
    ) -> None:  # fmt: skip
        self._queue: asyncio.Queue[Event | Failure] = asyncio.Queue(_MAX_WAITING_EVENTS)
        self._failure: Failure | None = None
        self._running = set(range(len(requests)))
        self._readers = [
            asyncio.create_task(self._read(index, whole_answer(start, request, peer_count=peer_count)))
            for index, request in enumerate(requests)
        ]

    async def next_events(self, timeout_seconds: float | None = None) -> list[Event]:
        """Waits for events and takes all that are there; none within the time is an empty list, a failure is raised."""
        events: list[Event] = []
        if self._failure is None and self._queue.empty():
            try:
                async with asyncio.timeout(timeout_seconds):
                    self._take(await self._queue.get(), events)
            except TimeoutError:
                return []
        while self._failure is None and not self._queue.empty():
            self._take(self._queue.get_nowait(), events)
        if self._failure is not None and not events:
            raise self._failure
        return events

    async def aclose(self) -> None:
        """Ends all calls. Those that have finished get a moment to end by themselves."""
        if not self._running:
            await asyncio.wait(self._readers, timeout=_END_SECONDS)
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    def _take(self, item: Event | Failure, events: list[Event]) -> None:
        if isinstance(item, tuple):
            events.append(item)
        else:
            self._failure = item

    async def _read(self, index: int, events: AsyncGenerator[pb.GenerateResponse]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    if event.HasField("finish"):
                        self._running.discard(index)
                    await self._queue.put((index, event))
        except (ServiceError, grpc.aio.AioRpcError) as error:
            if index in self._running:  # behind its finish, an answer is complete
                await self._queue.put(error)
        except Exception:
            _log.exception("generation_unreadable")
            await self._queue.put(BackendFailed("The answer could not be read."))
