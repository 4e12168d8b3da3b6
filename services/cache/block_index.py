"""What an index of stored KV blocks does, and the one that lives in memory."""

import time
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from services.shared.sealing import BlockRole

MAX_NEXT: Final = 64
"""Most blocks behind a prefix that a lookup names."""
MAX_LATEST: Final = 4096
"""Most blocks of one fingerprint that are named as those used last."""
REMOVAL_SECONDS: Final = 60.0
"""How long a block that is being deleted can't be stored anew if whoever deletes it dies."""


@dataclass(frozen=True)
class BlockFacts:
    """What never changes of a block."""

    hash: bytes
    parent: bytes
    """The block that this one is of no use without: the one before it, or one that holds a part of its state."""
    fingerprint: bytes
    size_bytes: int
    token_count: int
    role: BlockRole
    recompute_seconds: float
    is_whole: bool = False
    """Whether it holds the state of a whole sequence: no prompt needs the parent to reach it."""

    @property
    def needs_parent(self) -> bool:
        """Whether a prompt finds it only behind another block."""
        return not self.is_whole and self.parent != self.fingerprint


@dataclass(frozen=True)
class StoredBlock:
    """A block as the index knows it."""

    facts: BlockFacts
    hit_count: int
    used_at: float
    is_pinned: bool = False
    is_leased: bool = False


@dataclass(frozen=True)
class BlockLookup:
    """The longest stored beginning of a chain, and what is stored behind its last block, last used first."""

    prefix: tuple[StoredBlock, ...] = ()
    next: tuple[StoredBlock, ...] = ()


@dataclass(frozen=True)
class Lease:
    """Guards the blocks that a lookup finds; an empty id takes none."""

    id: str
    ends_at: float


@dataclass(frozen=True)
class BlockCounts:
    """What is stored now, and what has happened since the index was new."""

    block_count: int = 0
    size_bytes: int = 0
    token_count: int = 0
    pinned_count: int = 0
    hit_count: int = 0
    miss_count: int = 0
    written_bytes: int = 0
    written_token_count: int = 0
    eviction_count: int = 0
    evicted_bytes: int = 0
    reconciled_count: int = 0
    """How often the index was compared with the blobs."""
    computed_token_count: int = 0
    """Tokens that workers have computed."""


class BlockIndex(Protocol):
    """Knows every stored block. Each operation is atomic; hashes have 32 bytes. Raises `StoreUnavailable`."""

    backend: str

    async def add(self, facts: BlockFacts, *, is_written: bool) -> bool:
        """Adds a block unless it is known; says whether it is there now, which it is not while it is being deleted.

        `is_written` counts its bytes as written; a block found again after a loss is not.
        """

    async def get(self, hashes: Sequence[bytes]) -> list[StoredBlock]:
        """Finds those of some blocks that are known, in their order; counts nothing."""

    async def lookup(self, root: bytes, hashes: Sequence[bytes], *, lease: Lease | None, counts: bool) -> BlockLookup:
        """Finds the longest known beginning of a chain that starts behind `root`, and what follows it.

        The use of the beginning is counted where `counts` is set, as are the hashes not found; all found are leased.
        """

    async def find(
        self, hashes: Sequence[bytes], *, parents: Sequence[bytes], lease: Lease | None
    ) -> list[StoredBlock]:
        """Finds blocks by name, then what follows any of some parents.

        At most `MAX_NEXT` of these: the last parent first, of one parent the last used first. All found are leased.
        Finding none is counted as one miss.
        """

    async def use(self, hashes: Sequence[bytes]) -> None:
        """Counts a use of blocks that lookups found behind a beginning."""

    async def release(self, lease_id: str, hashes: Sequence[bytes]) -> None:
        """Ends the lease of some blocks, as far as it still holds."""

    async def pin(self, hashes: Sequence[bytes], *, is_pinned: bool) -> int:
        """Keeps known blocks from being removed, or no longer; counts those that are known."""

    async def name(self, name: bytes, block_hash: bytes) -> bool:
        """Gives a known block a name and pins it; says whether it is known.

        The block that had the name before is no longer pinned, unless another name means it too.
        """

    async def named(self, name: bytes) -> bytes | None:
        """Finds the block that has a name."""

    async def page(self, after: bytes, limit: int) -> tuple[list[StoredBlock], bytes]:
        """Lists blocks, those of one parent together, and where the next page begins; empty after the last."""

    async def latest(self, fingerprint: bytes, limit: int) -> list[StoredBlock]:
        """Lists blocks of a fingerprint, the last used first, of equals by hash, at most `MAX_LATEST`; counts nothing.

        Only the last used of all fingerprints are looked through: one that was hardly used lately may miss some.
        """

    async def count_computed(self, token_count: int) -> None:
        """Counts tokens that a worker has computed."""

    async def claim(self, hashes: Sequence[bytes], *, is_eviction: bool) -> list[bytes]:
        """Takes blocks out of the index before their blobs are deleted, and returns those taken.

        Not taken are unknown, leased and pinned ones, and parents of blocks that stay. Children come before parents.
        """

    async def drop(self, hashes: Sequence[bytes]) -> None:
        """Forgets blocks whose blobs are gone or damaged, whatever guards them."""

    async def finish_removal(self, hashes: Sequence[bytes]) -> None:
        """Says that the blobs of claimed blocks are deleted: they may be stored anew."""

    async def note_reconciled(self) -> None:
        """Counts a comparison with the blobs: where it is counted no longer, the index was lost since."""

    async def counts(self) -> BlockCounts:
        """Counts."""


@dataclass
class _Entry:
    facts: BlockFacts
    used_at: float
    hit_count: int = 0
    is_pinned: bool = False


class MemoryBlockIndex:
    """An index that lives as long as the process."""

    backend = "memory"

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: dict[bytes, _Entry] = {}
        self._children: list[bytes] = []  # parent and hash of each block, sorted
        self._leases: dict[bytes, dict[str, float]] = {}
        self._removals: dict[bytes, float] = {}
        self._names: dict[bytes, bytes] = {}
        self._counts = BlockCounts()

    async def add(self, facts: BlockFacts, *, is_written: bool) -> bool:
        """Adds a block unless it is known."""
        now = self._clock()
        if self._removals.get(facts.hash, 0.0) > now:
            return False
        if facts.hash not in self._entries:
            self._entries[facts.hash] = _Entry(facts, now)
            insort(self._children, facts.parent + facts.hash)
            self._count(block_count=1, size_bytes=facts.size_bytes, token_count=facts.token_count)
            if is_written:
                self._count(written_bytes=facts.size_bytes, written_token_count=facts.token_count)
        return True

    async def get(self, hashes: Sequence[bytes]) -> list[StoredBlock]:
        """Finds those of some blocks that are known."""
        return [self._stored(name) for name in hashes if name in self._entries]

    async def lookup(self, root: bytes, hashes: Sequence[bytes], *, lease: Lease | None, counts: bool) -> BlockLookup:
        """Finds the longest known beginning of a chain, and what follows it."""
        length = next((place for place, name in enumerate(hashes) if name not in self._entries), len(hashes))
        prefix = list(hashes[:length])
        following = self._following(prefix[-1] if prefix else root)
        if counts:
            await self.use(prefix)
            self._count(miss_count=len(hashes) - length)
        self._guard((*prefix, *following), lease)
        return BlockLookup(tuple(map(self._stored, prefix)), tuple(map(self._stored, following)))

    async def find(
        self, hashes: Sequence[bytes], *, parents: Sequence[bytes], lease: Lease | None
    ) -> list[StoredBlock]:
        """Finds blocks by name, then what follows any of some parents."""
        named = dict.fromkeys(name for name in hashes if name in self._entries)
        behind: list[bytes] = []
        for parent in reversed(parents):
            if len(behind) >= MAX_NEXT:
                break
            behind += [name for name in self._following(parent) if name not in named]
        found = [*named, *behind[:MAX_NEXT]]
        self._guard(found, lease)
        self._count(miss_count=int(not found))
        return [self._stored(name) for name in found]

    async def use(self, hashes: Sequence[bytes]) -> None:
        """Counts a use of blocks."""
        now = self._clock()
        for name in hashes:
            if entry := self._entries.get(name):
                entry.hit_count += 1
                entry.used_at = now
                self._count(hit_count=1)

    async def release(self, lease_id: str, hashes: Sequence[bytes]) -> None:
        """Ends the lease of some blocks."""
        for name in hashes:
            self._leases.get(name, {}).pop(lease_id, None)

    async def pin(self, hashes: Sequence[bytes], *, is_pinned: bool) -> int:
        """Keeps known blocks from being removed, or no longer."""
        known = [self._entries[name] for name in hashes if name in self._entries]
        for entry in known:
            self._count(pinned_count=is_pinned - entry.is_pinned)
            entry.is_pinned = is_pinned
        return len(known)

    async def name(self, name: bytes, block_hash: bytes) -> bool:
        """Gives a known block a name and pins it."""
        if not await self.pin([block_hash], is_pinned=True):
            return False
        old = self._names.get(name)
        self._names[name] = block_hash
        if old is not None and old not in self._names.values():
            await self.pin([old], is_pinned=False)
        return True

    async def named(self, name: bytes) -> bytes | None:
        """Finds the block that has a name."""
        return self._names.get(name)

    async def page(self, after: bytes, limit: int) -> tuple[list[StoredBlock], bytes]:
        """Lists blocks, those of one parent together."""
        start = bisect_right(self._children, after)
        members = self._children[start : start + limit]
        blocks = [self._stored(member[len(member) // 2 :]) for member in members]
        return blocks, members[-1] if len(members) == limit else b""

    async def latest(self, fingerprint: bytes, limit: int) -> list[StoredBlock]:
        """Lists blocks of a fingerprint, the last used first."""
        names = [name for name, entry in self._entries.items() if entry.facts.fingerprint == fingerprint]
        return [self._stored(name) for name in self._last_used_first(names)[: min(limit, MAX_LATEST)]]

    async def count_computed(self, token_count: int) -> None:
        """Counts tokens that a worker has computed."""
        self._count(computed_token_count=token_count)

    async def claim(self, hashes: Sequence[bytes], *, is_eviction: bool) -> list[bytes]:
        """Takes blocks out of the index before their blobs are deleted."""
        now = self._clock()
        taken = []
        for name in hashes:
            entry = self._entries.get(name)
            if entry is None or entry.is_pinned or self._is_leased(name) or self._following(name):
                continue
            self._forget(entry.facts)
            self._removals[name] = now + REMOVAL_SECONDS
            taken.append(name)
            if is_eviction:
                self._count(eviction_count=1, evicted_bytes=entry.facts.size_bytes)
        return taken

    async def drop(self, hashes: Sequence[bytes]) -> None:
        """Forgets blocks whose blobs are gone or damaged."""
        for name in hashes:
            if entry := self._entries.get(name):
                self._forget(entry.facts)

    async def finish_removal(self, hashes: Sequence[bytes]) -> None:
        """Says that the blobs of claimed blocks are deleted."""
        for name in hashes:
            self._removals.pop(name, None)

    async def note_reconciled(self) -> None:
        """Counts a comparison with the blobs."""
        self._count(reconciled_count=1)

    async def counts(self) -> BlockCounts:
        """Counts."""
        return self._counts

    def _guard(self, names: Iterable[bytes], lease: Lease | None) -> None:
        if lease:
            for name in names:
                self._leases.setdefault(name, {})[lease.id] = lease.ends_at

    def _stored(self, name: bytes) -> StoredBlock:
        entry = self._entries[name]
        return StoredBlock(entry.facts, entry.hit_count, entry.used_at, entry.is_pinned, self._is_leased(name))

    def _is_leased(self, name: bytes) -> bool:
        now = self._clock()
        leases = {lease_id: ends_at for lease_id, ends_at in self._leases.pop(name, {}).items() if ends_at > now}
        if leases:
            self._leases[name] = leases
        return bool(leases)

    def _following(self, parent: bytes) -> list[bytes]:
        place = bisect_right(self._children, parent)
        found = []
        while place < len(self._children) and self._children[place].startswith(parent):
            found.append(self._children[place][len(parent) :])
            place += 1
        return self._last_used_first(found)[:MAX_NEXT]

    def _last_used_first(self, names: Sequence[bytes]) -> list[bytes]:
        return sorted(names, key=lambda name: (-self._entries[name].used_at, name))

    def _forget(self, facts: BlockFacts) -> None:
        entry = self._entries.pop(facts.hash)
        self._count(block_count=-1, size_bytes=-facts.size_bytes, token_count=-facts.token_count)
        self._count(pinned_count=-int(entry.is_pinned))
        self._children.remove(facts.parent + facts.hash)

    def _count(self, **added: int) -> None:
        changed = {name: getattr(self._counts, name) + count for name, count in added.items()}
        self._counts = replace(self._counts, **changed)
