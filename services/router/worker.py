"""One worker as the router sees it: its channel, its health, and the requests this router has open there."""

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final

import grpc
from grpc.aio import Channel

from localcode.cache.v1 import cache_pb2
from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceStub
from localcode.inference.v1.state_pb2_grpc import StateServiceStub
from services.router.admission import is_background
from services.router.breaker import Breaker
from services.router.placement import Candidate, others_load
from services.router.trip import Trip

REPORT_AGE_SECONDS: Final = 3.5  # a heartbeat and the longest pause between polls, and some
MAX_KNOWN_HASHES: Final = 4096
_DESCRIBE_TIMEOUT_SECONDS: Final = 2.0


class RoutedWorker:
    """A worker that registered. It takes requests while its health service says so."""

    def __init__(
        self, registration: cache_pb2.Worker, channel: Channel, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.registration = registration
        self.channel = channel
        self.stub = InferenceServiceStub(channel)
        self.state_stub = StateServiceStub(channel)
        self.is_healthy = False
        self.breaker = Breaker()
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
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._backlog: Counter[str] = Counter()
        self._groups: Counter[str] = Counter()
        self._background_count = 0

    @property
    def worker_id(self) -> str:
        """Its unique name."""
        return self.registration.worker_id

    def runs(self, model: str) -> bool:
        """Says whether it runs a model, by name."""
        return any(known.name == model for known in self.registration.models)

    def candidate(self, trip: Trip) -> Candidate:
        """Itself as a choice for a request; what nobody waits for gives its slots up to what somebody waits for."""
        load = self.registration.load
        yielding = 0 if is_background(trip.request_class) else self._background_count
        reported = load.running_count + load.waiting_count
        slots = next((known.slot_count for known in self.registration.models if known.name == trip.model), 0)
        return Candidate(
            worker_id=self.worker_id,
            load=self.open_count - yielding + others_load(reported, self.open_count, self._recently_ended()),
            slot_count=slots,
            last_chosen=self.last_chosen,
            is_draining=self.registration.draining,
            cached_token_count=self.cached_token_count(trip),
            backlog_token_count=self._backlog.total(),
            prefill_rate=load.prefill_tokens_per_second,
            has_sibling=bool(trip.group) and self._groups[trip.group] > 0,
        )

    def cached_token_count(self, trip: Trip) -> int:
        """Estimates the prompt tokens whose state it holds, from the conversations that it has computed."""
        matched = max(self._known_hash_count(trip), trip.matched_elsewhere.get(self.worker_id, 0))
        return trip.token_counts[matched - 1] if 0 < matched <= len(trip.token_counts) else 0

    def knows_more_than_the_root(self, trip: Trip) -> bool:
        """Whether this router sent it a part of the conversation behind the system prompt."""
        return self._known_hash_count(trip) > 1

    def open_request(self, trip: Trip) -> None:
        """Counts a request as open."""
        self._backlog[trip.request_id] = max(trip.prompt_token_estimate - self.cached_token_count(trip), 0)
        self._groups[trip.group] += 1
        self._background_count += is_background(trip.request_class)
        self._remember(trip.hashes)
        self.breaker.begin()
        self.open_count += 1
        self.idle.clear()

    def close_request(self, trip: Trip) -> None:
        """Ends what `open_request` began."""
        self.note_prefilled(trip)
        self.breaker.abandon()
        self._groups.subtract([trip.group])
        self._background_count -= is_background(trip.request_class)
        self._groups = +self._groups
        self.open_count -= 1
        self._ended_at.append(self._clock())
        if self.open_count == 0:
            self.idle.set()

    def note_prefilled(self, trip: Trip) -> None:
        """Takes note that a request's prompt is computed."""
        self._backlog.pop(trip.request_id, None)

    def takes_requests(self) -> bool:
        """Whether it is well: healthy, not leaving, and not failing one request after the other."""
        return self.is_healthy and not self.registration.draining and self.breaker.allows(self._clock())

    def note_failure(self) -> None:
        """Takes note that a request failed there."""
        self.breaker.fail(self._clock())

    def _known_hash_count(self, trip: Trip) -> int:
        hashes = trip.hashes
        return next((index + 1 for index in reversed(range(len(hashes))) if hashes[index] in self._known), 0)

    def _remember(self, hashes: Sequence[bytes]) -> None:
        for known in hashes:
            self._known[known] = None
            self._known.move_to_end(known)
        while len(self._known) > MAX_KNOWN_HASHES:
            self._known.popitem(last=False)

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
