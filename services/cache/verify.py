"""Compares blobs with the index, and puts right what a crash, a lost index or a failing disk left behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from services.cache.block_index import BlockCounts, BlockFacts
from services.cache.block_store import PAGE_BLOCKS, BlockStore
from services.shared.errors import BlockBusy, BlockNotFound, ServiceError, StoreUnavailable
from services.shared.pace import until_next
from services.shared.sealing import BlobRejected

WATCH_SECONDS: Final = 2.0
_EVENT_BLOBS: Final = 32
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Findings:
    """What was found so far."""

    checked_count: int = 0
    checked_bytes: int = 0
    damaged_count: int = 0
    foreign_count: int = 0
    unindexed_count: int = 0
    missing_count: int = 0


async def verify(store: BlockStore, *, repair: bool, deep: bool = True) -> AsyncIterator[Findings]:
    """Checks all blobs and all entries, and yields what was found so far, lastly in all.

    `deep` reads every blob to its end; else blobs that the index knows are trusted if their size is right, and of the
    others the headers are read.
    """
    verification = _Verification(store, repair=repair, deep=deep)
    async for piece in store.blobs.list():
        for start in range(0, len(piece), _EVENT_BLOBS):
            await verification.check_blobs(piece[start : start + _EVENT_BLOBS])
            yield verification.findings
    await verification.check_entries()
    yield verification.findings


async def reconcile(store: BlockStore) -> Findings:
    """Makes the index agree with the blobs, which are the truth."""
    abandoned_count = await store.blobs.tidy()
    findings = [found async for found in verify(store, repair=True, deep=False)][-1]
    await store.index.note_reconciled()
    await store.evict()
    changes = findings.damaged_count + findings.unindexed_count + findings.missing_count + abandoned_count
    if changes:
        _log.info(
            "kv_store_reconciled",
            indexed=findings.unindexed_count,
            forgotten=findings.missing_count,
            damaged=findings.damaged_count,
            abandoned=abandoned_count,
        )
    return findings


async def keep_reconciled(
    store: BlockStore, *, every_seconds: float, show: Callable[[BlockCounts], None] = lambda _counts: None
) -> None:
    """Reconciles at once, then periodically, and soon after the index was away or has lost something."""
    last: BlockCounts | None = None
    waited_seconds = 0.0
    while True:
        try:
            counts = await store.index.counts()
            if last is None or has_lost(last, counts) or waited_seconds >= every_seconds:
                was_emptied = await _reconcile_watched(store)
                counts, waited_seconds = await store.index.counts(), every_seconds if was_emptied else 0.0
            show(counts)
            last = counts
        except (ServiceError, OSError) as error:
            if last is not None or not isinstance(error, StoreUnavailable):
                _log.warning("kv_store_not_reconciled", reason=str(error))
            last = None
        await asyncio.sleep(until_next(WATCH_SECONDS, time.monotonic()))
        waited_seconds += WATCH_SECONDS


async def _reconcile_watched(store: BlockStore) -> bool:
    """Reconciles, and says whether the index was emptied meanwhile: it then lacks what was indexed before."""
    await store.index.note_reconciled()
    begun = await store.index.counts()
    await reconcile(store)
    return (await store.index.counts()).reconciled_count <= begun.reconciled_count


def has_lost(before: BlockCounts, after: BlockCounts) -> bool:
    """Whether an index was emptied or set back in between: what it counts only grows."""
    growing = ("reconciled_count", "hit_count", "miss_count", "written_bytes", "eviction_count")
    return any(getattr(after, name) < getattr(before, name) for name in growing)


class _Verification:
    def __init__(self, store: BlockStore, *, repair: bool, deep: bool) -> None:
        self.findings = Findings()
        self._store, self._repair, self._deep = store, repair, deep
        self._seen: set[bytes] = set()

    async def check_blobs(self, blobs: list[tuple[bytes, int]]) -> None:
        known = {block.facts.hash: block.facts for block in await self._store.index.get([name for name, _ in blobs])}
        for block_hash, size_bytes in blobs:
            self._seen.add(block_hash)
            self._count(checked_count=1, checked_bytes=size_bytes)
            try:
                await self._check_blob(block_hash, size_bytes, known.get(block_hash))
            except BlobRejected as rejection:
                await self._reject(block_hash, rejection)
            except BlockNotFound:  # deleted since it was listed
                self._seen.discard(block_hash)

    async def check_entries(self) -> None:
        """Looks for entries without a blob."""
        after, is_last = b"", False
        while not is_last:
            blocks, after = await self._store.index.page(after, PAGE_BLOCKS)
            is_last = not after
            unseen = [block.facts.hash for block in blocks if block.facts.hash not in self._seen]
            missing = [name for name in unseen if await self._store.blobs.size(name) is None]
            self._count(missing_count=len(missing))
            if self._repair and missing:
                await self._store.index.drop(missing)

    async def _check_blob(self, block_hash: bytes, size_bytes: int, known: BlockFacts | None) -> None:
        if known is None or known.size_bytes != size_bytes:
            facts = await self._store.inspect(block_hash)
            if self._deep:
                await self._store.is_sound(block_hash)
            self._count(unindexed_count=1)
            if self._repair:
                await self._adopt(facts)
        elif self._deep:
            await self._store.is_sound(block_hash)

    async def _adopt(self, facts: BlockFacts) -> None:
        try:
            await self._store.index.drop([facts.hash])  # an entry of another size is of another blob
            await self._store.adopt(facts)
        except BlockBusy:  # it is just being deleted
            return

    async def _reject(self, block_hash: bytes, rejection: BlobRejected) -> None:
        if rejection.is_foreign:
            self._count(foreign_count=1)
            return
        if rejection.reason == "missing":
            self._seen.discard(block_hash)
            return
        self._count(damaged_count=1)
        if self._repair:
            await self._store.discard(block_hash, rejection.reason)

    def _count(self, **added: int) -> None:
        changed = {name: getattr(self.findings, name) + count for name, count in added.items()}
        self.findings = replace(self.findings, **changed)
