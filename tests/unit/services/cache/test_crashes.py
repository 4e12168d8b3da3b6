"""Crashes at every point of what a store does: whatever was done by then, index and blobs can be made to agree."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from services.cache.blobs import DirectoryBlobs
from services.cache.block_index import MemoryBlockIndex
from services.cache.block_store import BlockStore
from services.cache.verify import Findings, reconcile, verify
from services.shared.blob_directory import write_blob
from services.shared.sealing import decode_block
from tests.fakes.block_store import KEYS, SEALED_BYTES, Plain, make_store, plain_chain
from tests.fakes.index_contract import Clock


class Crash(BaseException):
    """Nothing catches it, as nothing catches a SIGKILL."""


class Crashing:
    """Passes calls on, until the given number of them was made: before or after that one, everything ends."""

    def __init__(self, inner: Any, steps: "Steps") -> None:
        self._inner, self._steps = inner, steps

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value) or name == "list":
            return value

        async def call(*arguments: Any, **options: Any) -> Any:
            self._steps.take()
            answer = await value(*arguments, **options)
            self._steps.take()
            return answer

        return call


class Steps:
    def __init__(self, left: int) -> None:
        self.left = left

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Crash


async def put(store: BlockStore, blocks: list[Plain]) -> None:
    await store.put(blocks[2].hash, blocks[2].sealed())


async def commit(store: BlockStore, blocks: list[Plain]) -> None:
    assert store.blobs.directory is not None
    write_blob(store.blobs.directory, blocks[2].hash, blocks[2].sealed())
    await store.commit(blocks[2].hash)


async def prune(store: BlockStore, blocks: list[Plain]) -> None:
    await store.prune()


async def repair(store: BlockStore, blocks: list[Plain]) -> None:
    await store.blobs.delete(blocks[1].hash)
    await reconcile(store)


@pytest.mark.parametrize("work", [put, commit, prune, repair])
async def test_after_a_crash_at_any_point_all_that_hits_is_valid(
    tmp_path: Path, work: Callable[[BlockStore, list[Plain]], Awaitable[None]]
) -> None:
    for steps in range(200):
        directory = tmp_path / str(steps)
        index = MemoryBlockIndex(clock=Clock())
        if not await crashes(directory, index, work, steps):
            break
        await check(directory, index)
    else:
        pytest.fail("the work has no end")
    assert steps > 3


async def crashes(
    directory: Path, index: MemoryBlockIndex, work: Callable[[BlockStore, list[Plain]], Awaitable[None]], steps: int
) -> bool:
    """Does the work on a store of two blocks that has room for no third one; says whether it crashed."""
    blobs = DirectoryBlobs(directory)
    blocks = plain_chain(1, 2) + plain_chain(2, 1)
    for block in blocks[:2]:
        await make_store(index=index, blobs=blobs).put(block.hash, block.sealed())
    limit = Steps(steps)
    crashing: Any = Crashing(index, limit), Crashing(blobs, limit)
    store = make_store(index=crashing[0], blobs=crashing[1], max_bytes=SEALED_BYTES * 23 // 10)
    try:
        await work(store, blocks)
    except Crash:
        return True
    return False


async def check(directory: Path, index: MemoryBlockIndex) -> None:
    store = make_store(directory, index=index)
    await index.finish_removal([block.hash for block in plain_chain(1, 2)])  # as a minute later
    await reconcile(store)
    found = [findings async for findings in verify(store, repair=False)][-1:]
    count = (await store.index.counts()).block_count
    assert found == [Findings(checked_count=count, checked_bytes=count * SEALED_BYTES)]
    for block in await store.all_blocks():
        decode_block(await store.read(block.facts.hash), block.facts.hash, keyring=KEYS)
