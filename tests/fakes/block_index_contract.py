"""What every index of KV blocks must do; run against the one in memory, a fake Redis and a real Valkey."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from services.cache.block_index import (
    MAX_NEXT,
    REMOVAL_SECONDS,
    BlockCounts,
    BlockFacts,
    BlockIndex,
    BlockLookup,
    Lease,
    StoredBlock,
)
from services.shared.sealing import BlockRole
from tests.fakes.index_contract import Clock, hashes

MakeBlockIndex = Callable[[Callable[[], float]], BlockIndex]
ROOT = hashes("fingerprint", 1)[0]


def chain(name: str, count: int, parent: bytes = ROOT) -> list[BlockFacts]:
    """Blocks, each of which follows the one before."""
    facts = []
    for block_hash in hashes(name, count):
        facts.append(BlockFacts(block_hash, parent, ROOT, 1000, 256, BlockRole.CONVERSATION, 0.1 + 1 / 3))
        parent = block_hash
    return facts


def names(blocks: list[BlockFacts]) -> list[bytes]:
    return [facts.hash for facts in blocks]


def found(blocks: tuple[StoredBlock, ...] | list[StoredBlock]) -> list[bytes]:
    return [block.facts.hash for block in blocks]


async def add(index: BlockIndex, blocks: list[BlockFacts]) -> None:
    for facts in blocks:
        assert await index.add(facts, is_written=True)


class BlockIndexContract:
    """Subclasses provide the fixture `make_index`."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def index(self, make_index: MakeBlockIndex, clock: Clock) -> BlockIndex:
        return make_index(clock)

    async def test_a_block_is_known_as_it_was_added(self, index: BlockIndex, clock: Clock) -> None:
        (facts,) = chain("x", 1)
        await add(index, [facts])
        assert await index.get([bytes(32), facts.hash]) == [StoredBlock(facts, 0, clock.now)]

    async def test_adding_again_changes_and_counts_nothing(self, index: BlockIndex) -> None:
        blocks = chain("x", 1)
        await add(index, blocks * 2)
        counts = await index.counts()
        assert counts == BlockCounts(
            block_count=1, size_bytes=1000, token_count=256, written_bytes=1000, written_token_count=256
        )

    async def test_a_block_that_was_found_again_is_not_counted_as_written(self, index: BlockIndex) -> None:
        await index.add(chain("x", 1)[0], is_written=False)
        assert await index.counts() == BlockCounts(block_count=1, size_bytes=1000, token_count=256)

    async def test_a_lookup_ends_at_the_first_missing_block(self, index: BlockIndex) -> None:
        blocks = chain("x", 5)
        await add(index, blocks[:2] + blocks[3:])
        answer = await index.lookup(ROOT, names(blocks), lease=None, counts=True)
        assert found(answer.prefix) == names(blocks[:2])
        counts = await index.counts()
        assert (counts.hit_count, counts.miss_count) == (2, 3)

    async def test_a_lookup_names_what_follows_the_last_block_last_used_first(
        self, index: BlockIndex, clock: Clock
    ) -> None:
        trunk = chain("x", 2)
        tails = [chain(name, 1, parent=trunk[-1].hash)[0] for name in "abc"]
        await add(index, trunk)
        for tail in tails:
            clock.now += 1
            await add(index, [tail])
        clock.now += 1
        await index.use([tails[1].hash])
        answer = await index.lookup(ROOT, [*names(trunk), bytes(32)], lease=None, counts=False)
        assert found(answer.next) == [tails[1].hash, tails[2].hash, tails[0].hash]
        assert [block.facts.token_count for block in answer.next] == [256] * 3

    async def test_without_a_beginning_a_lookup_names_what_follows_the_root(self, index: BlockIndex) -> None:
        blocks = chain("x", 1)
        await add(index, blocks)
        for unknown in ([], [bytes(32)]):
            assert found((await index.lookup(ROOT, unknown, lease=None, counts=False)).next) == names(blocks)
        assert await index.lookup(bytes(32), [], lease=None, counts=False) == BlockLookup()

    async def test_a_lookup_names_a_bounded_number_of_blocks(self, index: BlockIndex) -> None:
        await add(index, [chain(f"t{number}", 1)[0] for number in range(MAX_NEXT + 5)])
        assert len((await index.lookup(ROOT, [], lease=None, counts=False)).next) == MAX_NEXT

    async def test_what_lies_behind_places_is_found_the_last_place_first(self, index: BlockIndex, clock: Clock) -> None:
        places = hashes("place", 3)
        early, later, late = (
            chain(name, 1, parent=place)[0] for name, place in zip("abc", (*places[:2], places[1]), strict=True)
        )
        for facts in (early, later, late):
            clock.now += 1
            await add(index, [replace(facts, is_whole=True)])
        states = await index.find([], parents=places, lease=Lease("one", clock.now + 10))
        assert found(states) == names([late, later, early])
        assert all(block.facts.is_whole for block in states)
        assert await index.claim(names([early, later]), is_eviction=True) == []
        await index.release("one", names([early, later, late]))
        assert await index.claim(names([early]), is_eviction=True) == names([early])
        assert (await index.counts()).miss_count == 0

    async def test_where_nothing_lies_behind_a_place_a_miss_is_counted(self, index: BlockIndex) -> None:
        assert await index.find(hashes("name", 2), parents=hashes("place", 3), lease=None) == []
        assert (await index.counts()).miss_count == 1

    async def test_of_many_states_those_of_the_last_places_are_named(self, index: BlockIndex) -> None:
        first, last = hashes("place", 2)
        late = [chain(f"l{number}", 1, parent=last)[0] for number in range(MAX_NEXT - 5)]
        await add(index, [*(chain(f"f{number}", 1, parent=first)[0] for number in range(9)), *late])
        listed = found(await index.find([], parents=[first, last], lease=None))
        assert len(listed) == MAX_NEXT
        assert set(listed[: len(late)]) == set(names(late))

    async def test_what_is_asked_for_by_name_is_found_first_and_once_whatever_else_there_is(
        self, index: BlockIndex, clock: Clock
    ) -> None:
        (place,) = hashes("place", 1)
        (old,) = chain("old", 1, parent=place)
        await add(index, [old])
        clock.now += 1
        await add(index, [chain(f"n{number}", 1, parent=place)[0] for number in range(MAX_NEXT)])
        asked = [bytes(32), old.hash, old.hash]
        listed = found(await index.find(asked, parents=[place], lease=Lease("one", clock.now + 10)))
        assert listed[0] == old.hash
        assert len(listed) == len(set(listed)) == MAX_NEXT + 1
        assert await index.claim([old.hash], is_eviction=True) == []
        assert found(await index.find([old.hash], parents=[], lease=None)) == [old.hash]

    async def test_uses_are_counted_with_their_time(self, index: BlockIndex, clock: Clock) -> None:
        blocks = chain("x", 2)
        await add(index, blocks)
        clock.now += 10
        await index.lookup(ROOT, names(blocks[:1]), lease=None, counts=True)
        await index.lookup(ROOT, names(blocks), lease=None, counts=False)
        await index.use([blocks[0].hash, bytes(32)])
        first, second = await index.get(names(blocks))
        assert (first.hit_count, first.used_at) == (2, clock.now)
        assert (second.hit_count, second.used_at) == (0, clock.now - 10)

    async def test_leased_blocks_stay_until_released(self, index: BlockIndex, clock: Clock) -> None:
        blocks = chain("x", 2)
        await add(index, blocks)
        for lease_id in ("one", "two"):
            await index.lookup(ROOT, names(blocks[:1]), lease=Lease(lease_id, clock.now + 10), counts=False)
        assert [block.is_leased for block in await index.get(names(blocks))] == [True, True]  # the second as `next`
        await index.release("one", names(blocks))
        await index.release("one", names(blocks))
        assert await index.claim(names(blocks)[::-1], is_eviction=True) == []
        await index.release("two", names(blocks))
        assert await index.claim(names(blocks)[::-1], is_eviction=True) == names(blocks)[::-1]

    async def test_a_lease_ends_by_itself(self, index: BlockIndex, clock: Clock) -> None:
        blocks = chain("x", 1)
        await add(index, blocks)
        await index.lookup(ROOT, names(blocks), lease=Lease("one", clock.now + 10), counts=False)
        await index.lookup(ROOT, names(blocks), lease=Lease("one", clock.now + 20), counts=False)  # renewed
        clock.now += 15
        assert await index.claim(names(blocks), is_eviction=True) == []
        clock.now += 10
        assert await index.claim(names(blocks), is_eviction=True) == names(blocks)

    async def test_pinned_blocks_and_all_before_them_stay(self, index: BlockIndex) -> None:
        blocks = chain("x", 3)
        await add(index, blocks)
        assert await index.pin([blocks[1].hash, bytes(32)], is_pinned=True) == 1
        assert (await index.counts()).pinned_count == 1
        assert await index.claim(names(blocks)[::-1], is_eviction=True) == [blocks[2].hash]
        assert await index.pin([blocks[1].hash], is_pinned=False) == 1
        assert await index.claim(names(blocks[:2])[::-1], is_eviction=True) == names(blocks[:2])[::-1]

    async def test_no_parent_goes_before_its_children(self, index: BlockIndex) -> None:
        blocks = chain("x", 3)
        await add(index, blocks)
        assert await index.claim(names(blocks), is_eviction=True) == [blocks[2].hash]

    async def test_what_was_claimed_is_unknown_and_counted(self, index: BlockIndex) -> None:
        blocks = chain("x", 2)
        await add(index, blocks)
        await index.claim([blocks[1].hash, bytes(32)], is_eviction=True)
        assert found(await index.get(names(blocks))) == [blocks[0].hash]
        assert (await index.lookup(ROOT, names(blocks), lease=None, counts=False)).next == ()
        counts = await index.counts()
        assert (counts.block_count, counts.size_bytes, counts.token_count) == (1, 1000, 256)
        assert (counts.eviction_count, counts.evicted_bytes) == (1, 1000)
        await index.claim([blocks[0].hash], is_eviction=False)
        assert (await index.counts()).eviction_count == 1

    async def test_a_claimed_block_is_added_only_after_its_removal(self, index: BlockIndex, clock: Clock) -> None:
        (facts,) = chain("x", 1)
        await add(index, [facts])
        await index.claim([facts.hash], is_eviction=True)
        assert not await index.add(facts, is_written=True)
        assert await index.get([facts.hash]) == []
        await index.finish_removal([facts.hash])
        assert await index.add(facts, is_written=True)
        await index.claim([facts.hash], is_eviction=True)
        clock.now += REMOVAL_SECONDS + 1  # whoever removed it has died
        assert await index.add(facts, is_written=True)

    async def test_what_is_lost_is_dropped_whatever_guards_it(self, index: BlockIndex, clock: Clock) -> None:
        blocks = chain("x", 2)
        await add(index, blocks)
        await index.pin(names(blocks), is_pinned=True)
        await index.lookup(ROOT, names(blocks), lease=Lease("one", clock.now + 10), counts=False)
        await index.drop([blocks[0].hash, bytes(32)])
        assert found(await index.get(names(blocks))) == [blocks[1].hash]
        assert (await index.counts()).pinned_count == 1
        await add(index, blocks[:1])  # at once: it was not claimed
        assert not (await index.get(names(blocks[:1])))[0].is_pinned

    async def test_pages_hold_every_block_once_beside_its_siblings(self, index: BlockIndex) -> None:
        blocks = [facts for number in range(7) for facts in chain(f"c{number}", 3)]
        await add(index, blocks)
        listed, after = [], b""
        while True:
            page, after = await index.page(after, 4)
            listed += page
            assert len(page) <= 4
            if not after:
                break
        assert sorted(found(listed)) == sorted(names(blocks))
        assert [block.facts.parent for block in listed] == sorted(block.facts.parent for block in listed)

    async def test_as_many_hashes_as_a_call_may_have_are_taken(self, index: BlockIndex, clock: Clock) -> None:
        blocks = chain("x", 200)
        await add(index, blocks)
        asked = [*names(blocks), *hashes("unknown", 3896)]
        answer = await index.lookup(ROOT, asked, lease=Lease("one", clock.now + 10), counts=True)
        assert len(answer.prefix) == 200
        assert (await index.counts()).miss_count == 3896

    async def test_the_last_used_of_a_fingerprint_come_first_and_nothing_is_counted(
        self, index: BlockIndex, clock: Clock
    ) -> None:
        blocks, (foreign,) = chain("x", 4), chain("y", 1)
        await add(index, [*blocks, replace(foreign, fingerprint=hashes("other", 1)[0])])
        clock.now += 5
        await index.use([blocks[2].hash, foreign.hash])
        counts = await index.counts()
        latest = await index.latest(ROOT, 3)
        others = sorted(facts.hash for facts in (blocks[0], blocks[1], blocks[3]))
        assert found(latest)[0] == blocks[2].hash
        assert set(found(latest)[1:]) < set(others)
        assert found(await index.latest(ROOT, 100)) == [blocks[2].hash, *others]
        assert latest[0].hit_count == 1
        assert await index.latest(bytes(32), 100) == []
        assert await index.counts() == counts

    async def test_computed_tokens_add_up(self, index: BlockIndex) -> None:
        await index.count_computed(300)
        await index.count_computed(11)
        assert (await index.counts()).computed_token_count == 311

    async def test_a_name_pins_its_block_until_it_means_another(self, index: BlockIndex) -> None:
        first, second = chain("x", 1), chain("y", 1)
        await add(index, [*first, *second])
        assert await index.named(b"mine") is None
        assert await index.name(b"mine", first[0].hash)
        assert await index.name(b"too", first[0].hash)
        assert await index.named(b"mine") == first[0].hash
        assert await index.claim(names(first), is_eviction=False) == []
        assert await index.name(b"mine", second[0].hash)
        assert await index.claim(names(first), is_eviction=False) == []
        assert await index.name(b"too", second[0].hash)
        assert await index.claim(names(first), is_eviction=False) == names(first)
        assert await index.named(b"too") == second[0].hash

    async def test_an_unknown_block_gets_no_name(self, index: BlockIndex) -> None:
        assert not await index.name(b"mine", bytes(32))
        assert await index.named(b"mine") is None
