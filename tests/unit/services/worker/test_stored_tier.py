"""What of KV state is written to the block store and read back."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
from structlog.testing import capture_logs

from services.shared.block_client import NextBlock, OpenedBlock, StoredChain
from services.shared.sealing import BlockHeader, Buffer
from services.worker import stored_tier
from services.worker.blocks import BLOCK_TOKENS, Block, HashedTokens
from services.worker.ram_tier import RamTier
from services.worker.stored_tier import StoredTier

FINGERPRINT = b"f" * 32


class Archive:
    """A block store in a dictionary."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, tuple[BlockHeader, bytes]] = {}
        self.lookups = 0
        self.is_away = False
        self.released: list[tuple[bytes, ...]] = []

    async def lookup(self, hashes: Sequence[bytes], *, peek: bool = False) -> StoredChain:
        self.lookups += 1
        count = next((i for i, name in enumerate(hashes) if name not in self.blocks), len(hashes))
        last = hashes[count - 1] if count else FINGERPRINT
        following = [NextBlock(name, 1) for name, (header, _) in self.blocks.items() if header.parent == last]
        return StoredChain(tuple(hashes[:count]), tuple(following), "lease")

    async def release(self, chain: StoredChain, *, used: Sequence[bytes] = ()) -> None:
        self.released.append(tuple(used))

    async def get(self, block_hash: bytes) -> OpenedBlock | None:
        found = self.blocks.get(block_hash)
        return OpenedBlock(found[0], memoryview(found[1])) if found else None

    async def put(self, block_hash: bytes, header: BlockHeader, state: Buffer) -> bool:
        if self.is_away:
            return False
        self.blocks[block_hash] = (header, bytes(state))
        return True


def blocks_of(tokens: Sequence[int]) -> list[Block]:
    key = HashedTokens(tokens, FINGERPRINT)
    return [
        Block(key.hash(i), key.parent(i), key.block(i), np.full(8, i, np.uint8), 1.0) for i in range(key.block_count)
    ]


@pytest.fixture
def archive() -> Archive:
    return Archive()


@pytest.fixture
async def tier(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StoredTier]:
    monkeypatch.setattr(stored_tier, "_QUIET_SECONDS", 0.02)
    tier = StoredTier(RamTier(10_000), archive, fingerprint=FINGERPRINT)
    yield tier
    await tier.close()


def memory_of(tier: StoredTier) -> RamTier:
    return tier._ram


async def store(archive: Archive, tokens: Sequence[int]) -> None:
    for block in blocks_of(tokens):
        header = BlockHeader(block.parent, block.tokens.astype("<i4").tobytes(), 1.0)
        await archive.put(block.hash, header, block.data.tobytes())


TOKENS = list(range(BLOCK_TOKENS * 2 + 100))


async def test_what_the_engine_saves_is_written_and_read_back_the_same(archive: Archive, tier: StoredTier) -> None:
    for block in blocks_of(TOKENS):
        memory_of(tier).put(block)
    await asyncio.sleep(0.1)
    again = StoredTier(RamTier(10_000), archive, fingerprint=FINGERPRINT)
    assert await again.fetch([*TOKENS, 7], prefill_rate=0.0) == len(TOKENS)
    for block in blocks_of(TOKENS):
        found = memory_of(again).get(block.hash)
        assert found is not None
        assert (found.parent, found.tokens.tolist(), found.data.tolist()) == (
            block.parent, block.tokens.tolist(), block.data.tolist(),
        )  # fmt: skip
    await again.close()


async def test_what_was_read_is_not_written_again(archive: Archive, tier: StoredTier) -> None:
    await store(archive, TOKENS)
    before = dict(archive.blocks)
    await tier.fetch([*TOKENS, 7], prefill_rate=0.0)
    archive.blocks.clear()
    await tier.close()
    assert before
    assert not archive.blocks


async def test_a_partial_block_is_only_written_after_some_quiet_and_in_its_longest_form(archive: Archive) -> None:
    tier = StoredTier(RamTier(10_000), archive, fingerprint=FINGERPRINT)
    for length in (40, 60, 80):
        memory_of(tier).put(blocks_of(range(length))[0])
    await asyncio.sleep(0.05)
    assert not archive.blocks
    await tier.close()
    assert [len(header.tokens) // 4 for header, _ in archive.blocks.values()] == [80]


async def test_a_full_block_makes_the_partial_one_before_it_superfluous(archive: Archive, tier: StoredTier) -> None:
    memory_of(tier).put(blocks_of(TOKENS[:40])[0])
    memory_of(tier).put(blocks_of(TOKENS[:BLOCK_TOKENS])[0])
    await asyncio.sleep(0.1)
    assert [len(header.tokens) // 4 for header, _ in archive.blocks.values()] == [BLOCK_TOKENS]


async def test_a_tail_of_a_few_tokens_is_not_worth_a_file(archive: Archive, tier: StoredTier) -> None:
    memory_of(tier).put(blocks_of(range(10))[0])
    await tier.close()
    assert not archive.blocks


async def test_only_what_memory_lacks_is_read(archive: Archive, tier: StoredTier) -> None:
    await store(archive, TOKENS)
    memory_of(tier).keep(blocks_of(TOKENS)[0])
    assert await tier.fetch([*TOKENS, 7], prefill_rate=0.0) == len(TOKENS) - BLOCK_TOKENS
    assert await tier.fetch([*TOKENS, 7], prefill_rate=0.0) == 0


async def test_a_store_that_is_slower_than_computing_is_left_alone_for_a_while(
    archive: Archive, tier: StoredTier
) -> None:
    await store(archive, TOKENS)
    await tier.fetch([*TOKENS, 7], prefill_rate=0.0)
    memory_of(tier).clear()
    lookups = archive.lookups
    assert await tier.fetch([*TOKENS, 7], prefill_rate=1e12) == 0
    assert archive.lookups == lookups


async def test_what_was_saved_while_the_store_was_away_is_written_when_it_is_back(
    archive: Archive, tier: StoredTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_tier, "_RETRY_SECONDS", 0.01)
    archive.is_away = True
    for block in blocks_of(TOKENS):
        memory_of(tier).put(block)
    await asyncio.sleep(0.1)
    assert not archive.blocks
    archive.is_away = False
    await asyncio.sleep(0.2)
    assert set(archive.blocks) == {block.hash for block in blocks_of(TOKENS)}


async def test_what_was_being_written_at_the_end_is_written(archive: Archive) -> None:
    tier = StoredTier(RamTier(10_000), archive, fingerprint=FINGERPRINT)
    archive.is_away = True
    for block in blocks_of(TOKENS):
        memory_of(tier).put(block)
    await asyncio.sleep(0.05)
    archive.is_away = False
    await tier.close()
    assert set(archive.blocks) == {block.hash for block in blocks_of(TOKENS)}


async def test_what_waits_for_the_store_is_bounded_and_said_once(archive: Archive) -> None:
    tier = StoredTier(RamTier(64), archive, fingerprint=FINGERPRINT)
    archive.is_away = True
    blocks = blocks_of(range(BLOCK_TOKENS * 20))
    with capture_logs() as logs:
        for block in blocks:
            memory_of(tier).put(block)
        await asyncio.sleep(0.05)
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("kv_blocks_not_stored", "the store is away")]
    archive.is_away = False
    await tier.close()
    assert 1 <= len(archive.blocks) <= 5


@pytest.mark.parametrize("hangs", [False, True])
async def test_an_end_does_not_wait_for_a_store_that_is_away(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    async def put(*_arguments: object) -> bool:
        nonlocal count
        count += 1
        if hangs:
            await asyncio.Event().wait()
        return False

    count = 0
    monkeypatch.setattr(stored_tier, "_CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(archive, "put", put)
    archive.is_away = True
    tier = StoredTier(RamTier(10_000), archive, fingerprint=FINGERPRINT)
    for block in blocks_of(range(BLOCK_TOKENS * 20)):
        memory_of(tier).put(block)
    await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        await tier.close()
    assert count <= 2


async def test_a_block_that_cannot_be_read_is_a_miss(archive: Archive, tier: StoredTier) -> None:
    await store(archive, TOKENS)
    second = blocks_of(TOKENS)[1]
    chain = await archive.lookup([block.hash for block in blocks_of(TOKENS)[:2]])
    del archive.blocks[second.hash]

    async def lookup(hashes: Sequence[bytes], *, peek: bool = False) -> StoredChain:
        return chain

    archive.lookup = lookup  # type: ignore[method-assign]
    assert await tier.fetch([*TOKENS, 7], prefill_rate=0.0) == BLOCK_TOKENS + 100
    assert not memory_of(tier).contains(second.hash)
