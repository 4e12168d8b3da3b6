"""What an index of workers and lineages does, and the one that lives in memory."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

WORKERS_PER_LINEAGE: Final = 4


@dataclass(frozen=True)
class LineageLimits:
    """How many lineage hashes are kept, and for how long."""

    max_count: int
    ttl_seconds: float


@dataclass(frozen=True)
class LineageMatch:
    """How many of the hashes looked for are known, and who computed the last of them, latest first."""

    matched_count: int = 0
    worker_ids: tuple[str, ...] = ()
    prompt_token_count: int = 0


class Index(Protocol):
    """Keeps worker registrations under leases, and lineages. Registrations are opaque bytes."""

    backend: str

    async def ping(self) -> None:
        """Raises `StoreUnavailable` if the store is away."""

    async def register(self, worker_id: str, registration: bytes, *, lease_seconds: float) -> None:
        """Adds a worker, or replaces its registration and renews its lease."""

    async def deregister(self, worker_id: str) -> None:
        """Removes a worker, if it is there."""

    async def registrations(self) -> list[bytes]:
        """Lists the registrations whose lease has not ended, by worker id."""

    async def record(self, worker_id: str, hashes: Sequence[bytes], *, prompt_token_count: int) -> None:
        """Notes that a worker computed a conversation."""

    async def lookup(self, hashes: Sequence[bytes]) -> LineageMatch:
        """Finds the longest known beginning of a conversation."""

    async def lineage_count(self) -> int:
        """Counts the known lineage hashes."""


@dataclass(frozen=True)
class _Lease:
    registration: bytes
    ends_at: float


@dataclass(frozen=True)
class _Lineage:
    worker_ids: tuple[str, ...]
    prompt_token_count: int
    ends_at: float


class MemoryIndex:
    """An index that lives as long as the process."""

    backend = "memory"

    def __init__(self, limits: LineageLimits, *, clock: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._clock = clock
        self._leases: dict[str, _Lease] = {}
        self._lineages: OrderedDict[bytes, _Lineage] = OrderedDict()  # the one not seen for longest comes first

    async def ping(self) -> None:
        """Memory is never away."""

    async def register(self, worker_id: str, registration: bytes, *, lease_seconds: float) -> None:
        """Adds a worker, or replaces its registration and renews its lease."""
        self._leases[worker_id] = _Lease(registration, time.monotonic() + lease_seconds)

    async def deregister(self, worker_id: str) -> None:
        """Removes a worker, if it is there."""
        self._leases.pop(worker_id, None)

    async def registrations(self) -> list[bytes]:
        """Lists the registrations whose lease has not ended, by worker id."""
        now = time.monotonic()
        self._leases = {worker_id: lease for worker_id, lease in self._leases.items() if lease.ends_at > now}
        return [self._leases[worker_id].registration for worker_id in sorted(self._leases)]

    async def record(self, worker_id: str, hashes: Sequence[bytes], *, prompt_token_count: int) -> None:
        """Notes that a worker computed a conversation."""
        now = self._clock()
        for lineage_hash in reversed(hashes):  # so that the root is the last of them to be dropped
            old = self._lineages.get(lineage_hash)
            others = [known for known in old.worker_ids if known != worker_id] if old else []
            self._lineages[lineage_hash] = _Lineage(
                worker_ids=(worker_id, *others)[:WORKERS_PER_LINEAGE],
                prompt_token_count=max(old.prompt_token_count if old else 0, prompt_token_count),
                ends_at=now + self._limits.ttl_seconds,
            )
            self._lineages.move_to_end(lineage_hash)
        self._drop_old(now)

    async def lookup(self, hashes: Sequence[bytes]) -> LineageMatch:
        """Finds the longest known beginning of a conversation."""
        now = self._clock()
        for count in range(len(hashes), 0, -1):
            known = self._lineages.get(hashes[count - 1])
            if known and known.ends_at > now:
                return LineageMatch(count, known.worker_ids, known.prompt_token_count)
        return LineageMatch()

    async def lineage_count(self) -> int:
        """Counts the known lineage hashes."""
        self._drop_old(self._clock())
        return len(self._lineages)

    def _drop_old(self, now: float) -> None:
        while self._lineages:
            oldest = next(iter(self._lineages.values()))
            if oldest.ends_at > now and len(self._lineages) <= self._limits.max_count:
                return
            self._lineages.popitem(last=False)
