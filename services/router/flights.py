"""Answers on their way to clients. One whose client was cut off goes on for a while, and the client that asks the same
again gets it from the beginning instead of starting it anew."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from hashlib import sha256
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.router.transcript import Transcript
from services.shared.errors import WorkerLost

_MAX_UNREAD: Final = 256  # a client that reads slower than this slows its own answer down


def flight_key(request: pb.GenerateRequest) -> str:
    """Names what a request asks for and who asks, whichever attempt it is; empty without a session."""
    if not request.context.session_id:
        return ""
    bare = pb.GenerateRequest()
    bare.CopyFrom(request)
    for field in ("request_id", "resume_tokens"):
        bare.ClearField(field)
    return sha256(bare.SerializeToString(deterministic=True)).hexdigest()


class Flight:
    """One answer, read by one client at a time."""

    def __init__(self, key: str, session_id: str, model: str, events: AsyncGenerator[pb.GenerateResponse]) -> None:
        self.key, self.session_id, self.model = key, session_id, model
        self.has_reader = True
        self.has_begun = False
        self._transcript = Transcript()
        self._unread: deque[pb.GenerateResponse] = deque()
        self._boarding_count = 0
        self._error: Exception | None = None
        self._changed, self._room = asyncio.Event(), asyncio.Event()
        self._pump = asyncio.create_task(self._run(events))

    @property
    def is_running(self) -> bool:
        """Whether more is to come."""
        return not self._pump.done()

    @property
    def has_failed(self) -> bool:
        """Whether it ended in an error."""
        return self._error is not None

    async def read(self) -> AsyncGenerator[pb.GenerateResponse]:
        """Yields the events that come, as the one reader."""
        while True:
            while self._unread:
                event = self._unread.popleft()
                self._room.set()
                yield event
            if not self.is_running:
                break
            self._changed.clear()
            await self._changed.wait()
        if self._error is not None:
            raise self._error
        if self._pump.cancelled():
            raise WorkerLost("The router stopped in the middle of an answer.", retry_after_seconds=1.0)

    def board(self) -> None:
        """Makes room for a new reader, which begins at the beginning."""
        self._unread = deque(self._transcript.replay())
        self._boarding_count += 1
        self.has_reader = True

    def orphan(self) -> None:
        """Goes on without a reader."""
        self.has_reader = False
        self._unread.clear()
        self._room.set()

    def stop(self) -> None:
        """Ends it."""
        self._pump.cancel()

    async def aclose(self) -> None:
        """Ends it and waits until its slot is free."""
        self.stop()
        await asyncio.gather(self._pump, return_exceptions=True)

    async def _run(self, events: AsyncGenerator[pb.GenerateResponse]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    await self._take(event)
        except Exception as error:
            self._error = error
        finally:
            asyncio.get_running_loop().call_soon(self._changed.set)  # once this task counts as done

    async def _take(self, event: pb.GenerateResponse) -> None:
        self.has_begun = self.has_begun or event.HasField("delta")
        if self.key:
            self._transcript.add(event)
        boarding_count = self._boarding_count
        while self.has_reader and len(self._unread) >= _MAX_UNREAD:
            self._room.clear()
            await self._room.wait()
        if self.has_reader and boarding_count == self._boarding_count:  # else the new reader has it already
            self._unread.append(event)
            self._changed.set()


class Flights:
    """All answers on their way."""

    def __init__(self, *, rejoin_seconds: float) -> None:
        self._rejoin_seconds = rejoin_seconds
        self._flights: set[Flight] = set()
        self._orphans: defaultdict[str, list[Flight]] = defaultdict(list)

    def start(self, request: pb.GenerateRequest, key: str, events: AsyncGenerator[pb.GenerateResponse]) -> Flight:
        """Begins an answer. What its session left behind is ended: nobody will ask for that again."""
        for orphan in [one for flights in self._orphans.values() for one in flights]:
            if orphan.session_id == request.context.session_id:
                self._drop(orphan)
        flight = Flight(key, request.context.session_id, request.model, events)
        self._flights.add(flight)
        return flight

    def rejoin(self, key: str) -> Flight | None:
        """Finds an answer that lost its reader, and seats the new one."""
        if not self._orphans.get(key):
            return None
        flight = self._orphans[key].pop(0)
        flight.board()
        return flight

    def leave(self, flight: Flight, *, is_complete: bool) -> None:
        """Takes the reader off; the answer goes on for a while if someone may come back for it."""
        if flight not in self._flights or not flight.has_reader:
            return
        if is_complete or not (flight.key and flight.has_begun and self._rejoin_seconds):
            self._drop(flight)
            return
        flight.orphan()
        self._orphans[flight.key].append(flight)
        asyncio.get_running_loop().call_later(self._rejoin_seconds, self._expire, flight)

    def make_room(self, model: str) -> bool:
        """Ends an answer without a reader that holds a slot of a model, where someone waits for one."""
        for orphan in [one for flights in self._orphans.values() for one in flights]:
            if orphan.model == model and orphan.is_running:
                self._drop(orphan)
                return True
        return False

    async def aclose(self) -> None:
        """Ends all of them."""
        await asyncio.gather(*(flight.aclose() for flight in self._flights))

    def _expire(self, flight: Flight) -> None:
        if not flight.has_reader:
            self._drop(flight)

    def _drop(self, flight: Flight) -> None:
        flight.stop()
        self._flights.discard(flight)
        orphans = self._orphans.get(flight.key, [])
        if flight in orphans:
            orphans.remove(flight)
        if not orphans:
            self._orphans.pop(flight.key, None)
