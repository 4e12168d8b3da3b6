"""A block store that keeps no bytes: the index and the eviction are those of the cache service."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.cache.block_index import BlockFacts, MemoryBlockIndex
from services.cache.block_store import SLACK
from services.cache.eviction import choose_victims
from services.shared.block_client import HotBlock, NextBlock, OpenedBlock, StoredChain
from services.shared.sealing import BlockHeader, Buffer
from services.worker.blocks import BLOCK_TOKENS

FINGERPRINT: Final = bytes(32)


@dataclass(frozen=True)
class StateSize:
    """What the KV state of a model takes, and how fast it is computed."""

    bytes_per_token: int = 12_302
    """Qwen2.5-Coder-0.5B with an f16 cache."""
    prefill_rate: float = 190.0
    """Tokens a second."""

    def zeros(self, token_count: int) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
        """State of so many tokens that takes no memory."""
        return np.broadcast_to(np.uint8(0), (self.bytes_per_token * token_count,))


class SimulatedStore:
    """What `StoredTier` asks of a store, under a budget of bytes.

    Where `by_use_alone` is set all blocks are worth the same, so that the one not used for longest goes first.
    """

    is_away = is_remote = False

    def __init__(
        self, budget_bytes: int, size: StateSize, *, clock: Callable[[], float], by_use_alone: bool = False
    ) -> None:
        self._budget_bytes, self._size, self._clock, self._by_use_alone = budget_bytes, size, clock, by_use_alone
        self._index = MemoryBlockIndex(clock=clock)
        self._headers: dict[bytes, BlockHeader] = {}
        self._state = memoryview(bytes(size.bytes_per_token * BLOCK_TOKENS))
        self.written_bytes = 0

    async def lookup(self, hashes: Sequence[bytes], *, peek: bool = False) -> StoredChain:
        """Finds the longest stored beginning of a chain."""
        found = await self._index.lookup(FINGERPRINT, hashes, lease=None, counts=not peek)
        following = tuple(NextBlock(block.facts.hash, block.facts.token_count) for block in found.next)
        return StoredChain(tuple(block.facts.hash for block in found.prefix), following)

    async def find_states(self, places: Sequence[bytes], hashes: Sequence[bytes]) -> StoredChain:
        """None: the contestants' model is cut into blocks."""
        return StoredChain()

    async def hottest(self, *, max_bytes: int) -> Sequence[HotBlock]:
        """Nothing: memory is empty before each request."""
        return ()

    async def release(self, chain: StoredChain, *, used: Sequence[bytes] = ()) -> None:
        """Counts what was used behind a beginning."""
        await self._index.use(used)

    async def get(self, block_hash: bytes) -> OpenedBlock | None:
        """Reads a block."""
        header = self._headers.get(block_hash)
        return OpenedBlock(header, self._state[: self._bytes(header)]) if header else None

    async def put(self, block_hash: bytes, header: BlockHeader, state: Buffer) -> bool:
        """Stores a block."""
        if block_hash in self._headers:
            return True
        size_bytes = self._bytes(header)
        if not await self._makes_room(size_bytes, header.is_after):
            return False
        seconds = 0.0 if self._by_use_alone else header.recompute_seconds
        facts = BlockFacts(
            block_hash, header.is_after, FINGERPRINT, size_bytes, header.token_count, header.role, seconds
        )  # fmt: skip
        await self._index.add(facts, is_written=True)
        self._headers[block_hash] = header
        self.written_bytes += size_bytes
        return True

    async def count_tokens(self, computed_count: int) -> bool:
        """Takes a statistic."""
        return True

    def _bytes(self, header: BlockHeader) -> int:
        base = self._headers.get(header.base)
        return (header.token_count - (base.token_count if base else 0)) * self._size.bytes_per_token

    async def _makes_room(self, size_bytes: int, followed: bytes) -> bool:
        """As the cache service: nothing goes for a block behind a gap, or for one that would not fit even so."""
        counts = await self._index.counts()
        surplus_bytes = counts.size_bytes + size_bytes - self._budget_bytes
        if surplus_bytes <= 0:
            return True
        if followed not in (FINGERPRINT, *self._headers):
            return False
        blocks, _ = await self._index.page(b"", len(self._headers) + 1)
        enough_bytes = surplus_bytes + self._budget_bytes // SLACK
        victims = choose_victims(blocks, surplus_bytes=enough_bytes, now=self._clock(), followed=followed)
        if sum(victim.facts.size_bytes for victim in victims) < surplus_bytes:
            return False
        gone = await self._index.claim([victim.facts.hash for victim in victims], is_eviction=True)
        await self._index.finish_removal(gone)
        for name in gone:
            del self._headers[name]
        return True
