"""What of KV state is written to the block store and read back."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
from structlog.testing import capture_logs

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.block_client import HotBlock, NextBlock, OpenedBlock, StoredChain
from services.shared.sealing import BlockHeader, BlockRole, Buffer
from services.worker import block_writer, prefetch, write_policy
from services.worker.blocks import BLOCK_TOKENS, Block, HashedTokens
from services.worker.ram_tier import RamTier
from services.worker.stored_tier import StoredTier, Visit

MAIN, TITLE = pb.REQUEST_CLASS_MAIN, pb.REQUEST_CLASS_TITLE
FINGERPRINT = b"f" * 32


class Archive:
    """A block store in a dictionary."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, tuple[BlockHeader, bytes]] = {}
        self.lookups = 0
        self.is_away = self.is_remote = False
        self.released: list[tuple[bytes, ...]] = []
        self.put_names: list[bytes] = []
        self.computed_count = 0
        self.hot: list[bytes] = []
        self.refused: set[bytes] = set()

    async def lookup(self, hashes: Sequence[bytes], *, peek: bool = False) -> StoredChain:
        self.lookups += not peek
        count = next((i for i, name in enumerate(hashes) if name not in self.blocks), len(hashes))
        last = hashes[count - 1] if count else FINGERPRINT
        following = [
            NextBlock(name, header.token_count) for name, (header, _) in self.blocks.items() if header.is_after == last
        ]
        return StoredChain(tuple(hashes[:count]), tuple(following), "lease")

    async def release(self, chain: StoredChain, *, used: Sequence[bytes] = ()) -> None:
        self.released.append(tuple(used))

    async def get(self, block_hash: bytes) -> OpenedBlock | None:
        found = self.blocks.get(block_hash)
        return OpenedBlock(found[0], memoryview(found[1])) if found else None

    async def put(self, block_hash: bytes, header: BlockHeader, state: Buffer) -> bool:
        if self.is_away or block_hash in self.refused:
            return False
        self.blocks[block_hash] = (header, bytes(state))
        self.put_names.append(block_hash)
        return True

    async def hottest(self, *, max_bytes: int) -> list[HotBlock]:
        return [HotBlock(name, 8) for name in self.hot[: max_bytes // 8]]

    async def count_tokens(self, computed_count: int) -> bool:
        self.computed_count += computed_count
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
    monkeypatch.setattr(block_writer, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(write_policy, "_QUIET_SECONDS", 0.02)
    monkeypatch.setattr(prefetch, "_SETTLE_SECONDS", 0.01)
    tier = StoredTier(RamTier(10_000), archive, fingerprint=FINGERPRINT)
    yield tier
    await tier.close()


def memory_of(tier: StoredTier) -> RamTier:
    return tier._ram


async def store(archive: Archive, tokens: Sequence[int]) -> None:
    for block in blocks_of(tokens):
        header = BlockHeader(block.parent, block.tokens.astype("<i4").tobytes(), 1.0)
        await archive.put(block.hash, header, block.data.tobytes())


async def until_put(archive: Archive, count: int) -> None:
    async with asyncio.timeout(20):
        while len(archive.put_names) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def fetch(tier: StoredTier, tokens: Sequence[int], *, prefill_rate: float = 0.0) -> int:
    return await tier.fetch(HashedTokens(tokens, FINGERPRINT), prefill_rate=prefill_rate)


async def begin(
    tier: StoredTier, tokens: Sequence[int], kind: "pb.RequestClass.ValueType" = MAIN, *, system: int = 0
) -> Visit:
    return await tier.begin(tokens, request_class=kind, system_token_count=system, prefill_rate=0.0)


TOKENS = list(range(BLOCK_TOKENS * 2 + 100))


async def test_what_the_engine_saves_is_written_and_read_back_the_same(archive: Archive, tier: StoredTier) -> None:
    for block in blocks_of(TOKENS):
        memory_of(tier).put(block)
    await until_put(archive, 3)
    again = StoredTier(RamTier(10_000), archive, fingerprint=FINGERPRINT)
    assert await fetch(again, [*TOKENS, 7]) == len(TOKENS)
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
    await fetch(tier, [*TOKENS, 7])
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
    await until_put(archive, 1)
    assert [len(header.tokens) // 4 for header, _ in archive.blocks.values()] == [BLOCK_TOKENS]


async def test_a_tail_of_a_few_tokens_is_not_worth_a_file(archive: Archive, tier: StoredTier) -> None:
    memory_of(tier).put(blocks_of(range(10))[0])
    await tier.close()
    assert not archive.blocks


async def test_only_what_memory_lacks_is_read(archive: Archive, tier: StoredTier) -> None:
    await store(archive, TOKENS)
    memory_of(tier).keep(blocks_of(TOKENS)[0])
    assert await fetch(tier, [*TOKENS, 7]) == len(TOKENS) - BLOCK_TOKENS
    assert await fetch(tier, [*TOKENS, 7]) == 0


async def test_a_store_that_is_slower_than_computing_is_left_alone_for_a_while(
    archive: Archive, tier: StoredTier
) -> None:
    await store(archive, TOKENS)
    await fetch(tier, [*TOKENS, 7])
    memory_of(tier).clear()
    lookups = archive.lookups
    assert await fetch(tier, [*TOKENS, 7], prefill_rate=1e12) == 0
    assert archive.lookups == lookups


async def test_what_was_saved_while_the_store_was_away_is_written_when_it_is_back(
    archive: Archive, tier: StoredTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_writer, "_RETRY_SECONDS", 0.01)
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
    monkeypatch.setattr(block_writer, "_CLOSE_SECONDS", 0.05)
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
    assert await fetch(tier, [*TOKENS, 7]) == BLOCK_TOKENS + 100
    assert not memory_of(tier).contains(second.hash)


async def test_of_a_title_nothing_is_written_until_its_beginning_comes_again(
    archive: Archive, tier: StoredTier
) -> None:
    shared, own = list(range(BLOCK_TOKENS)), list(range(1000, 1000 + BLOCK_TOKENS))
    visit = await begin(tier, [*shared, *own, 7], TITLE, system=BLOCK_TOKENS)
    assert visit.returning_count == 0
    for block in blocks_of([*shared, *own]):
        memory_of(tier).put(block)
    tier.end(visit, [*shared, *own, 7], computed_count=513, goes_on=False)
    await asyncio.sleep(0.1)
    assert not archive.put_names
    again = await begin(tier, [*shared, 8], TITLE, system=BLOCK_TOKENS)
    assert again.returning_count == BLOCK_TOKENS
    await until_put(archive, 1)
    await tier.close()
    assert archive.put_names == [blocks_of(shared)[0].hash]
    assert archive.blocks[archive.put_names[0]][0].role is BlockRole.SYSTEM


async def test_blocks_are_stored_under_the_role_they_have(archive: Archive, tier: StoredTier) -> None:
    visit = await begin(tier, TOKENS, system=BLOCK_TOKENS + 10)
    for block in blocks_of(TOKENS):
        memory_of(tier).put(block)
    tier.end(visit, TOKENS, computed_count=len(TOKENS), goes_on=False)
    await until_put(archive, 3)
    assert [archive.blocks[block.hash][0].role for block in blocks_of(TOKENS)] == [
        BlockRole.SYSTEM, BlockRole.CONVERSATION, BlockRole.CONVERSATION,
    ]  # fmt: skip


async def test_a_conversation_that_called_a_tool_is_written_before_others_that_came_first(
    archive: Archive, tier: StoredTier
) -> None:
    other, called = list(range(5000, 5000 + BLOCK_TOKENS)), list(range(2 * BLOCK_TOKENS))
    for tokens, goes_on in ((other, False), (called, True)):
        tier.end(await begin(tier, tokens), tokens, computed_count=1, goes_on=goes_on)
    for block in (*blocks_of(other), *blocks_of(called)):
        memory_of(tier).put(block)
    await until_put(archive, 3)
    assert archive.put_names == [block.hash for block in (*blocks_of(called), *blocks_of(other))]


async def test_no_more_is_written_than_the_bound_allows_for_the_tokens_computed(archive: Archive) -> None:
    tier = StoredTier(RamTier(10_000), archive, fingerprint=FINGERPRINT, written_bytes_per_token=2)
    visit = await begin(tier, TOKENS[: 2 * BLOCK_TOKENS])
    for block in blocks_of(TOKENS[: 2 * BLOCK_TOKENS]):
        memory_of(tier).put(block)
    await asyncio.sleep(0.05)
    assert not archive.put_names
    tier.end(visit, TOKENS[: 2 * BLOCK_TOKENS], computed_count=7, goes_on=False)
    await until_put(archive, 1)
    await asyncio.sleep(0.05)
    assert archive.put_names == [blocks_of(TOKENS)[0].hash]
    tier.writer.note_computed(1)
    await until_put(archive, 2)
    await tier.close()
    assert archive.computed_count == 8


async def test_what_comes_from_the_store_is_written_again_only_when_the_store_has_lost_it(
    archive: Archive, tier: StoredTier
) -> None:
    await store(archive, TOKENS)
    archive.put_names.clear()
    await fetch(tier, [*TOKENS, 7])
    for lost in (False, True):
        memory_of(tier).clear()
        if lost:
            archive.blocks.clear()
            await fetch(tier, [*TOKENS, 7])
        memory_of(tier).put(blocks_of(TOKENS)[0])
        await asyncio.sleep(0.05)
        assert archive.put_names == ([blocks_of(TOKENS)[0].hash] if lost else [])


async def test_what_the_store_refused_is_written_when_it_comes_again(archive: Archive, tier: StoredTier) -> None:
    put, is_away = archive.put, True

    async def failing(block_hash: bytes, header: BlockHeader, state: Buffer) -> bool:
        return not is_away and await put(block_hash, header, state)

    archive.put = failing  # type: ignore[method-assign]
    memory_of(tier).put(blocks_of(TOKENS)[0])
    await asyncio.sleep(0.05)
    is_away = False
    await begin(tier, TOKENS)
    await until_put(archive, 1)


async def test_what_a_tool_call_interrupted_is_brought_back_into_memory(archive: Archive, tier: StoredTier) -> None:
    visit = await begin(tier, TOKENS)
    await store(archive, TOKENS)
    tier.end(visit, TOKENS, computed_count=0, goes_on=True)
    async with asyncio.timeout(20):
        while not memory_of(tier).contains(blocks_of(TOKENS)[1].hash):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert tier.prefetcher.token_count == 2 * BLOCK_TOKENS
    assert archive.lookups == 1  # that of the prompt: reading ahead is no use


async def test_what_was_held_back_is_written_once_it_is_known_that_its_subagent_goes_on(
    archive: Archive, tier: StoredTier
) -> None:
    blocks = blocks_of(TOKENS)[:2]
    visit = await begin(tier, TOKENS, pb.REQUEST_CLASS_SUBAGENT)
    for block in blocks:
        memory_of(tier).put(block)
    await asyncio.sleep(0.1)
    assert not archive.put_names
    tier.end(visit, TOKENS, computed_count=len(TOKENS), goes_on=True)
    await until_put(archive, 2)
    assert archive.put_names == [block.hash for block in blocks]


async def test_nothing_is_written_behind_what_was_held_back_until_the_store_has_that(
    archive: Archive, tier: StoredTier
) -> None:
    first, second = blocks_of(TOKENS)[:2]
    archive.refused = {first.hash}
    for block in (first, second):
        memory_of(tier).put(block)
    await asyncio.sleep(0.1)
    assert not archive.put_names
    archive.refused = set()
    await store(archive, TOKENS[:BLOCK_TOKENS])  # another worker has written it
    await begin(tier, TOKENS)
    await until_put(archive, 2)
    assert archive.put_names == [first.hash, second.hash]


async def test_an_answer_that_called_no_tool_is_not_read_ahead(archive: Archive, tier: StoredTier) -> None:
    visit = await begin(tier, TOKENS)
    await store(archive, TOKENS)
    tier.end(visit, TOKENS, computed_count=0, goes_on=False)
    await asyncio.sleep(0.1)
    assert len(memory_of(tier)) == 0


@pytest.mark.parametrize(("ram_bytes", "is_put_off"), [(10_000, True), (60, False)])
async def test_writing_stands_back_while_requests_are_computed_unless_too_much_waits(
    archive: Archive, ram_bytes: int, *, is_put_off: bool
) -> None:
    is_computing = True
    tier = StoredTier(RamTier(ram_bytes), archive, fingerprint=FINGERPRINT, is_computing=lambda: is_computing)
    full = blocks_of(list(range(BLOCK_TOKENS * 3)))
    for block in full:
        memory_of(tier).put(block)
    await asyncio.sleep(0.15)
    assert (not archive.put_names) == is_put_off
    is_computing = False
    await until_put(archive, 3)
    assert archive.put_names == [block.hash for block in full]
    await tier.close()


async def test_where_no_pause_comes_blocks_are_written_now_and_then(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_writer, "_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(block_writer, "_MOST_BUSY_SECONDS", 0.02)
    tier = StoredTier(RamTier(10_000), archive, fingerprint=FINGERPRINT, is_computing=lambda: True)
    for block in blocks_of(list(range(BLOCK_TOKENS * 3))):
        memory_of(tier).put(block)
    await until_put(archive, 3)
    await tier.close()


async def test_where_a_gpu_computes_writing_does_not_stand_back(archive: Archive) -> None:
    tier = StoredTier(
        RamTier(10_000), archive, fingerprint=FINGERPRINT, is_computing=lambda: True, shares_processor=False
    )
    for block in blocks_of(list(range(BLOCK_TOKENS * 3))):
        memory_of(tier).put(block)
    await until_put(archive, 3)
    await tier.close()


async def test_memory_is_warmed_with_the_hottest_blocks_while_nobody_computes(archive: Archive) -> None:
    await store(archive, TOKENS)
    archive.hot = [block.hash for block in blocks_of(TOKENS)]
    is_computing = True
    tier = StoredTier(RamTier(10_000), archive, fingerprint=FINGERPRINT, is_computing=lambda: is_computing)
    tier.warm(16)
    await asyncio.sleep(0.1)
    assert len(memory_of(tier)) == 0
    is_computing = False
    async with asyncio.timeout(20):
        while len(memory_of(tier)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await tier.close()
    assert [memory_of(tier).contains(name) for name in archive.hot] == [True, True, False]


async def test_warming_takes_no_more_than_there_is_room_for(archive: Archive) -> None:
    await store(archive, TOKENS)
    archive.hot = [block.hash for block in blocks_of(TOKENS)]
    tier = StoredTier(RamTier(20), archive, fingerprint=FINGERPRINT)
    assert await tier.prefetcher.warm(1000) == 2 * BLOCK_TOKENS
    assert len(memory_of(tier)) == 2
    await tier.close()
