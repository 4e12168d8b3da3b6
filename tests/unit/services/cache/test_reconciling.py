import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakeredis import FakeAsyncRedis

from services.cache import verify
from services.cache.blobs import DirectoryBlobs
from services.cache.redis_block_index import RedisBlockIndex
from services.cache.verify import keep_reconciled, reconcile
from tests.fakes.block_store import make_store, plain_chain


async def test_two_stores_on_one_redis_leave_each_other_alone(tmp_path: Path) -> None:
    redis = FakeAsyncRedis()
    blobs = [DirectoryBlobs(tmp_path / name) for name in "ab"]
    stores = [make_store(index=RedisBlockIndex(redis, store_id=one.identity), blobs=one) for one in blobs]
    shared, own = plain_chain(1, 2), plain_chain(2, 1)
    for store, blocks in zip(stores, (shared, shared + own), strict=True):
        for block in blocks:
            await store.put(block.hash, block.sealed())
    await stores[0].prune()
    findings = [await reconcile(store) for store in stores]
    assert [found.missing_count + found.unindexed_count for found in findings] == [0, 0]
    assert [(await store.index.counts()).block_count for store in stores] == [0, 3]
    assert await stores[1].read(shared[0].hash)


async def test_an_index_that_is_emptied_while_it_is_reconciled_is_reconciled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = FakeAsyncRedis()
    store, blocks = make_store(tmp_path, index=RedisBlockIndex(redis)), plain_chain(1, 3)
    for block in blocks:
        await store.put(block.hash, block.sealed())
    await redis.flushall()
    listed, is_first = store.blobs.list, True

    async def list_and_empty() -> AsyncIterator[list[tuple[bytes, int]]]:
        nonlocal is_first
        async for piece in listed():
            yield piece
        if is_first:
            await redis.flushall()
        is_first = False

    monkeypatch.setattr(store.blobs, "list", list_and_empty)
    monkeypatch.setattr(verify, "WATCH_SECONDS", 0.01)
    task = asyncio.create_task(keep_reconciled(store, every_seconds=3600))
    try:
        async with asyncio.timeout(5):
            while is_first or len(await store.index.get([block.hash for block in blocks])) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        while not task.done():  # a client of Redis may take a cancellation for its own timeout
            task.cancel()
            await asyncio.wait([task], timeout=0.1)
