"""Decides which blocks to give up: pure."""

import heapq
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from services.cache.block_index import StoredBlock
from services.shared.reuse import expected_reuse
from services.shared.sealing import BlockRole

_ROLE_WEIGHTS: Final = {BlockRole.SYSTEM: 4.0, BlockRole.CONVERSATION: 1.0, BlockRole.ENDED: 0.25}
GIGABYTE: Final = 1_000_000_000


@dataclass(frozen=True)
class Budget:
    """How much may be stored."""

    max_bytes: int
    min_free_bytes: int
    """Bytes of the disk that stay free."""

    def surplus(self, stored_bytes: int, free_bytes: int | None, *, incoming_bytes: int = 0) -> int:
        """Bytes that must go before more may come."""
        over = stored_bytes + incoming_bytes - self.max_bytes
        short = 0 if free_bytes is None else self.min_free_bytes + incoming_bytes - free_bytes
        return max(0, over, short)


def default_max_bytes(disk_bytes: int | None) -> int:
    """The smaller of 20 GB and a tenth of the disk."""
    return 20 * GIGABYTE if disk_bytes is None else min(20 * GIGABYTE, disk_bytes // 10)


def value_per_byte(block: StoredBlock, now: float) -> float:
    """Says what a block is worth to keep: seconds that it will probably save, per byte."""
    reuse = _ROLE_WEIGHTS[block.facts.role] * expected_reuse(block.hit_count, now - block.used_at)
    return block.facts.recompute_seconds * reuse / max(1, block.facts.size_bytes)


def removable(blocks: Collection[StoredBlock], now: float, *, followed: bytes = b"") -> Iterator[StoredBlock]:
    """Yields blocks in the order in which to give them up: the least valuable first, of equals the one idle longest.

    A block comes only after all that follow it; pinned and leased ones, one that will be followed, and what they
    follow, never come.
    """
    known = {block.facts.hash: block for block in blocks}
    child_counts = dict.fromkeys(known, 0)
    for block in blocks:
        if block.facts.parent in known:
            child_counts[block.facts.parent] += 1
    heap = [_ranked(block, now) for block in blocks if child_counts[block.facts.hash] == 0]
    heapq.heapify(heap)
    while heap:
        block = known[heapq.heappop(heap)[-1]]
        if block.is_pinned or block.is_leased or block.facts.hash == followed:
            continue
        yield block
        parent = block.facts.parent
        if parent in known:
            child_counts[parent] -= 1
            if child_counts[parent] == 0:
                heapq.heappush(heap, _ranked(known[parent], now))


def choose_victims(
    blocks: Collection[StoredBlock], *, surplus_bytes: int, now: float, followed: bytes = b""
) -> list[StoredBlock]:
    """Chooses the least valuable blocks that together free so many bytes, or all that may go if that is not enough.

    One that is about to be `followed` does not make room for the block that is of no use without it.
    """
    victims: list[StoredBlock] = []
    freed_bytes = 0
    for block in removable(blocks, now, followed=followed):
        if freed_bytes >= surplus_bytes:
            break
        victims.append(block)
        freed_bytes += block.facts.size_bytes
    return victims


def choose_hottest(blocks: Collection[StoredBlock], *, max_bytes: int, now: float) -> list[StoredBlock]:
    """Chooses the most valuable blocks that have so many bytes together, best first and each behind its parent.

    A block is worth at least what any block behind it is. One that needs its parent is left out where that is not
    chosen: no prompt could reach it.
    """
    children: dict[bytes, list[StoredBlock]] = {}
    for block in blocks:
        children.setdefault(block.facts.parent, []).append(block)
    values = _values_with_followers(blocks, now)

    def ranked(block: StoredBlock) -> tuple[float, float, bytes]:
        return -values[block.facts.hash], -block.used_at, block.facts.hash

    known = {block.facts.hash: block for block in blocks}
    heap = [ranked(block) for block in blocks if not block.facts.needs_parent]
    heapq.heapify(heap)
    chosen: list[StoredBlock] = []
    left_bytes = max_bytes
    while heap:
        block = known[heapq.heappop(heap)[-1]]
        if block.facts.size_bytes > left_bytes:
            continue
        left_bytes -= block.facts.size_bytes
        chosen.append(block)
        for child in children.get(block.facts.hash, ()):
            heapq.heappush(heap, ranked(child))
    return chosen


def _values_with_followers(blocks: Collection[StoredBlock], now: float) -> dict[bytes, float]:
    """The value of each block, or of the most valuable one behind it if that is higher."""
    known = {block.facts.hash: block for block in blocks}
    values: dict[bytes, float] = {}
    for block in blocks:
        value, name = value_per_byte(block, now), block.facts.hash
        while name in known and value > values.get(name, -1.0):
            values[name] = value
            name = known[name].facts.parent
    return values


def choose_idle(blocks: Collection[StoredBlock], *, idle_seconds: float, now: float) -> list[StoredBlock]:
    """Chooses all blocks that have not been used for so long, and that nothing used since then follows."""
    kept: set[bytes] = set()
    idle = []
    for block in removable(blocks, now):
        if now - block.used_at < idle_seconds or block.facts.hash in kept:
            kept.update((block.facts.hash, block.facts.parent))
        else:
            idle.append(block)
    return idle


def choose_prunable(
    blocks: Collection[StoredBlock], *, max_bytes: int | None, idle_seconds: float | None, now: float
) -> list[StoredBlock]:
    """Chooses what is idle for so long, then the least valuable until so many bytes are left; without limits, all."""
    idle = [] if idle_seconds is None else choose_idle(blocks, idle_seconds=idle_seconds, now=now)
    if max_bytes is None and idle_seconds is not None:
        return idle
    gone = {block.facts.hash for block in idle}
    left = [block for block in blocks if block.facts.hash not in gone]
    surplus_bytes = sum(block.facts.size_bytes for block in left) - (max_bytes or 0)
    return idle + choose_victims(left, surplus_bytes=surplus_bytes, now=now)


def _ranked(block: StoredBlock, now: float) -> tuple[float, float, bytes]:
    return value_per_byte(block, now), block.used_at, block.facts.hash
