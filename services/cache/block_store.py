"""Blobs and their index as one store: what is written, read and given up."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from services.cache.blobs import Blobs
from services.cache.block_index import MAX_LATEST, BlockFacts, BlockIndex, StoredBlock
from services.cache.eviction import Budget, choose_hottest, choose_idle, choose_prunable, choose_victims
from services.shared.errors import BlockBusy, BlockNotFound, InvalidRequest, StoreFull
from services.shared.keyring import Keyring
from services.shared.sealing import (
    BEGINNING_BYTES,
    BlobRejected,
    Buffer,
    decode_block,
    decode_header,
    header_end,
    read_preamble,
)

PAGE_BLOCKS: Final = 1000
SLACK: Final = 100
"""A store that is full gives up this part of its budget at once, so that not every write has to look through all."""
_ATTEMPTS: Final = 3
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class StoreLimits:
    """What a store takes."""

    budget: Budget
    max_block_bytes: int
    max_idle_seconds: float = math.inf


class BlockStore:
    """Writes blobs before their index entries and deletes them after, so that a crash loses no more than space."""

    def __init__(
        self,
        index: BlockIndex,
        blobs: Blobs,
        keyring: Keyring,
        limits: StoreLimits,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.index, self.blobs, self.limits = index, blobs, limits
        self._keyring = keyring
        self._clock = clock
        self._evicting = asyncio.Lock()
        self._is_full = False

    @property
    def key_ids(self) -> list[bytes]:
        """The keys that blocks may be sealed with."""
        return self._keyring.key_ids

    async def put(self, block_hash: bytes, blob: Buffer) -> None:
        """Stores a sealed block. Raises `InvalidRequest`, `StoreFull` or `BlockBusy`."""
        facts = self._facts(block_hash, blob, len(blob))
        if await self.index.get([block_hash]):
            return
        try:
            await self._make_room(facts)
            await self.blobs.write(block_hash, blob)
        except StoreFull as error:
            self._note_full(error)
            raise
        await self._add(facts)

    async def commit(self, block_hash: bytes) -> None:
        """Indexes a block that was written into the directory. Raises as `put` does, and `BlockNotFound`."""
        if await self.index.get([block_hash]):
            return
        try:
            facts = await self.inspect(block_hash)
            await self._make_room(facts, is_written=True)
        except BlobRejected as rejection:
            await self.blobs.delete(block_hash)
            raise _refused(rejection) from rejection
        except StoreFull as error:
            await self.blobs.delete(block_hash)
            self._note_full(error)
            raise
        await self._add(facts)

    async def read(self, block_hash: bytes) -> bytes:
        """Reads a sealed block. Raises `BlockNotFound`."""
        blob = await self.blobs.read(block_hash)
        if blob is None:
            await self.index.drop([block_hash])
            raise BlockNotFound("No such block is stored.")
        return blob

    async def read_beginning(self, block_hash: bytes) -> bytes:
        """Reads a sealed block without its state. Raises `BlockNotFound`; what is damaged is returned as it is."""
        beginning = await self.blobs.read(block_hash, limit=BEGINNING_BYTES)
        if beginning is None:
            raise BlockNotFound("No such block is stored.")
        end = header_end(beginning)
        return beginning if end <= len(beginning) else await self.blobs.read(block_hash, limit=end) or b""

    async def inspect(self, block_hash: bytes) -> BlockFacts:
        """Reads what a blob's header says. Raises `BlobRejected` or `BlockNotFound`."""
        size_bytes = await self.blobs.size(block_hash)
        if size_bytes is None:
            raise BlockNotFound("No such block is stored.")
        return facts_of(block_hash, await self.read_beginning(block_hash), size_bytes, self._keyring)

    async def is_sound(self, block_hash: bytes) -> bool:
        """Checks a blob to its last byte. Raises `BlobRejected` with the reason, also for a missing blob."""
        blob = await self.blobs.read(block_hash)
        if blob is None:
            raise BlobRejected("missing")
        await asyncio.to_thread(decode_block, blob, block_hash, keyring=self._keyring)
        return True

    async def discard_damaged(self, hashes: Sequence[bytes]) -> None:
        """Checks blocks that a reader could not open; the damaged ones are deleted, and may be stored anew."""
        for block_hash in hashes:
            try:
                await self.is_sound(block_hash)
            except BlobRejected as rejection:
                if not rejection.is_foreign:
                    await self.discard(block_hash, rejection.reason)

    async def discard(self, block_hash: bytes, reason: str) -> None:
        """Deletes a block that is of no use to anybody."""
        _log.warning("block_discarded", block=block_hash.hex(), reason=reason)
        await self.index.drop([block_hash])
        await self.blobs.delete(block_hash)

    async def adopt(self, facts: BlockFacts) -> None:
        """Indexes a valid blob that the index doesn't know."""
        await self._add(facts, is_written=False)

    async def all_blocks(self) -> list[StoredBlock]:
        """Lists the whole index."""
        blocks, after = await self.index.page(b"", PAGE_BLOCKS)
        while after:
            more, after = await self.index.page(after, PAGE_BLOCKS)
            blocks += more
        return blocks

    async def hottest(self, fingerprint: bytes, *, max_bytes: int) -> list[StoredBlock]:
        """Lists what is most valuable of a fingerprint, each block behind its parent."""
        latest = await self.index.latest(fingerprint, MAX_LATEST)
        return await asyncio.to_thread(choose_hottest, latest, max_bytes=max_bytes, now=self._clock())

    async def prune(
        self, *, max_bytes: int | None = None, idle_seconds: float | None = None, fingerprint: bytes = b""
    ) -> list[StoredBlock]:
        """Deletes what is asked for, or without any limit all that may go, and returns what was deleted."""
        async with self._evicting:
            blocks = await self.all_blocks()
            blocks = [block for block in blocks if fingerprint in (b"", block.facts.fingerprint)]
            choose = partial(choose_prunable, blocks, max_bytes=max_bytes, idle_seconds=idle_seconds)
            victims = await asyncio.to_thread(choose, now=self._clock())
            return await self._remove(victims, is_eviction=False)

    async def evict(self) -> None:
        """Gives up what has been idle for too long, and what exceeds the budget."""
        await self._make_room()
        if math.isfinite(self.limits.max_idle_seconds):
            async with self._evicting:
                choose = partial(choose_idle, await self.all_blocks(), idle_seconds=self.limits.max_idle_seconds)
                idle = await asyncio.to_thread(choose, now=self._clock())
                await self._remove(idle, is_eviction=True)

    async def _make_room(self, incoming: BlockFacts | None = None, *, is_written: bool = False) -> None:
        """Evicts until the budget is kept, with a block that comes and whose blob may be written already."""
        if await self._surplus(incoming, is_written=is_written) == 0:
            return
        if incoming:
            await self._check_reachable(incoming)
        async with self._evicting:
            surplus_bytes = await self._surplus(incoming, is_written=is_written)
            freed_bytes = 0
            for _attempt in range(_ATTEMPTS):  # a block may get a follower or a reader before it is claimed
                if freed_bytes < surplus_bytes:
                    freed_bytes += await self._free(surplus_bytes - freed_bytes, incoming)
        if incoming and freed_bytes < surplus_bytes:
            raise StoreFull(
                "The KV store is full of blocks that are pinned, in use or before this one, or its disk of other files."
            )

    async def _check_reachable(self, incoming: BlockFacts) -> None:
        """Lets nothing go for a block that no prompt would find."""
        if incoming.needs_parent and not await self.index.get([incoming.parent]):
            raise StoreFull("The KV store is full, and does not hold the block before this one.")

    async def _free(self, surplus_bytes: int, incoming: BlockFacts | None) -> int:
        """Removes so much, and some more; nothing for a block that would not fit even then."""
        choose = partial(
            choose_victims,
            await self.all_blocks(),
            surplus_bytes=surplus_bytes + self.limits.budget.max_bytes // SLACK,
            followed=incoming.parent if incoming else b"",
        )
        victims = await asyncio.to_thread(choose, now=self._clock())  # half a second for 100,000 blocks
        if incoming and sum(block.facts.size_bytes for block in victims) < surplus_bytes:
            return 0
        removed = await self._remove(victims, is_eviction=True)
        return sum(block.facts.size_bytes for block in removed)

    async def _surplus(self, incoming: BlockFacts | None, *, is_written: bool) -> int:
        size_bytes = incoming.size_bytes if incoming else 0
        stored_bytes = (await self.index.counts()).size_bytes
        free_bytes = await self.blobs.free_bytes()
        if is_written:
            return self.limits.budget.surplus(stored_bytes + size_bytes, free_bytes)
        return self.limits.budget.surplus(stored_bytes, free_bytes, incoming_bytes=size_bytes)

    async def _remove(self, victims: Sequence[StoredBlock], *, is_eviction: bool) -> list[StoredBlock]:
        removed = []
        for start in range(0, len(victims), PAGE_BLOCKS):
            some = {victim.facts.hash: victim for victim in victims[start : start + PAGE_BLOCKS]}
            claimed = await self.index.claim(list(some), is_eviction=is_eviction)
            for block_hash in claimed:
                await self.blobs.delete(block_hash)
            await self.index.finish_removal(claimed)
            removed += [some[block_hash] for block_hash in claimed]
        if removed and is_eviction:
            size_bytes = sum(block.facts.size_bytes for block in removed)
            _log.info("blocks_evicted", block_count=len(removed), size_bytes=size_bytes)
        return removed

    async def _add(self, facts: BlockFacts, *, is_written: bool = True) -> None:
        if not await self.index.add(facts, is_written=is_written):
            raise BlockBusy("A block of this hash is being deleted.", retry_after_seconds=1.0)
        if await self.blobs.size(facts.hash) is None:  # deleted between our look at it and this
            await self.index.drop([facts.hash])
            raise BlockNotFound("No such block is stored.")
        self._is_full = False

    def _facts(self, block_hash: bytes, blob: Buffer, size_bytes: int) -> BlockFacts:
        try:
            return facts_of(block_hash, blob, size_bytes, self._keyring)
        except BlobRejected as rejection:
            raise _refused(rejection) from rejection

    def _note_full(self, error: StoreFull) -> None:
        if not self._is_full:
            _log.warning("kv_store_is_full", storage=self.blobs.storage, reason=error.message)
        self._is_full = True


def facts_of(block_hash: bytes, beginning: Buffer, size_bytes: int, keyring: Keyring) -> BlockFacts:
    """Reads a blob's beginning, and compares its size with what it should be. Raises `BlobRejected`."""
    header, preamble = decode_header(beginning, block_hash, keyring=keyring), read_preamble(beginning)
    if preamble.blob_bytes != size_bytes:
        raise BlobRejected("truncated" if size_bytes < preamble.blob_bytes else "too long")
    return BlockFacts(
        hash=block_hash,
        parent=header.is_after,
        fingerprint=preamble.fingerprint,
        size_bytes=size_bytes,
        token_count=header.token_count,
        role=header.role,
        recompute_seconds=header.recompute_seconds,
        is_whole=header.is_whole,
    )


def _refused(rejection: BlobRejected) -> InvalidRequest:
    return InvalidRequest(f"This is no valid block: {rejection.reason}.", param="data")
