from dataclasses import replace
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from services.cache.block_index import BlockFacts, StoredBlock
from services.cache.eviction import (
    GIGABYTE,
    Budget,
    choose_hottest,
    choose_idle,
    choose_victims,
    default_max_bytes,
    removable,
    value_per_byte,
)
from services.shared.sealing import BlockRole

NOW = 1_800_000_000.0
ROOT = bytes(32)


def name(number: int) -> bytes:
    return sha256(bytes([number])).digest()


def block(number: int, parent: bytes = ROOT, **changed: object) -> StoredBlock:
    facts = BlockFacts(name(number), parent, ROOT, 1000, 256, BlockRole.CONVERSATION, 1.0)
    stored = StoredBlock(facts, hit_count=0, used_at=NOW)
    for key, value in changed.items():
        if hasattr(facts, key):
            stored = replace(stored, facts=replace(stored.facts, **{key: value}))
        else:
            stored = replace(stored, **{key: value})
    return stored


@st.composite
def forests(draw: st.DrawFn) -> list[StoredBlock]:
    """Blocks whose parents are blocks before them, or nothing that is stored."""
    blocks: list[StoredBlock] = []
    for number in range(draw(st.integers(0, 20))):
        parent = draw(st.sampled_from([ROOT, *(known.facts.hash for known in blocks)]))
        blocks.append(
            block(
                number,
                parent,
                size_bytes=draw(st.integers(1, 5)) * 1000,
                role=draw(st.sampled_from(BlockRole)),
                recompute_seconds=draw(st.sampled_from([0.5, 1.0, 2.0])),
                hit_count=draw(st.integers(0, 3)),
                used_at=NOW - draw(st.sampled_from([0.0, 3600.0, 86400.0])),
                is_pinned=draw(st.integers(0, 9)) == 0,
                is_leased=draw(st.integers(0, 9)) == 0,
            )
        )
    return draw(st.permutations(blocks))


def model_order(blocks: list[StoredBlock]) -> list[StoredBlock]:
    """The definition, by brute force: each time the least valuable of all blocks that nothing stored follows."""
    left, order = list(blocks), []
    while True:
        parents = {known.facts.parent for known in left}
        free = [known for known in left if known.facts.hash not in parents]
        free = [known for known in free if not known.is_pinned and not known.is_leased]
        if not free:
            return order
        victim = min(free, key=lambda known: (value_per_byte(known, NOW), known.used_at, known.facts.hash))
        left.remove(victim)
        order.append(victim)


@given(forests())
def test_the_order_is_that_of_the_definition(blocks: list[StoredBlock]) -> None:
    assert list(removable(blocks, NOW)) == model_order(blocks)


@given(forests(), st.integers(0, 60_000))
def test_no_more_is_given_up_than_needed_and_nothing_that_is_guarded(blocks: list[StoredBlock], surplus: int) -> None:
    victims = choose_victims(blocks, surplus_bytes=surplus, now=NOW)
    sizes = [victim.facts.size_bytes for victim in victims]
    assert sum(sizes[:-1]) < max(surplus, 1)
    assert sum(sizes) >= surplus or victims == model_order(blocks)
    gone = {victim.facts.hash for victim in victims}
    for stays in blocks:
        if stays.facts.hash not in gone:
            assert stays.facts.parent not in gone
    assert not any(victim.is_pinned or victim.is_leased for victim in victims)


@given(forests(), st.integers(0, 60_000))
def test_what_will_be_followed_stays_with_all_before_it(blocks: list[StoredBlock], surplus: int) -> None:
    followed = blocks[-1].facts.hash if blocks else b""
    gone = {victim.facts.hash for victim in choose_victims(blocks, surplus_bytes=surplus, now=NOW, followed=followed)}
    parents = {known.facts.hash: known.facts.parent for known in blocks}
    while followed in parents:
        assert followed not in gone
        followed = parents[followed]
    leased = [replace(known, is_leased=known.is_leased or known is blocks[-1]) for known in blocks]
    assert gone == {victim.facts.hash for victim in choose_victims(leased, surplus_bytes=surplus, now=NOW)}


@given(forests(), st.sampled_from([1.0, 3600.0, 90_000.0]))
def test_idle_blocks_go_unless_something_that_stays_follows_them(blocks: list[StoredBlock], idle: float) -> None:
    gone = {victim.facts.hash for victim in choose_idle(blocks, idle_seconds=idle, now=NOW)}
    for stored in blocks:
        if stored.facts.hash in gone:
            assert NOW - stored.used_at >= idle
        else:
            assert stored.facts.parent not in gone
    may_go = [known for known in blocks if NOW - known.used_at >= idle]
    for known in may_go:
        followed = any(other.facts.parent == known.facts.hash and other.facts.hash not in gone for other in blocks)
        assert known.facts.hash in gone or followed or known.is_pinned or known.is_leased


def test_what_costs_more_to_compute_is_used_more_or_is_smaller_is_worth_more() -> None:
    usual = value_per_byte(block(0), NOW)
    for better in ({"recompute_seconds": 2.0}, {"hit_count": 1}, {"size_bytes": 500}, {"role": BlockRole.SYSTEM}):
        assert value_per_byte(block(0, **better), NOW) > usual
    assert value_per_byte(block(0, role=BlockRole.ENDED), NOW) < usual
    assert value_per_byte(block(0, used_at=NOW - 15), NOW) == usual / 2


def test_a_new_block_outlives_one_that_was_used_often_before_it_came_to_rest() -> None:
    new, ended = block(0), block(1, hit_count=30, used_at=NOW - 3600)
    assert choose_victims([new, ended], surplus_bytes=1, now=NOW) == [ended]


def test_of_equal_blocks_the_one_idle_longest_goes_first() -> None:
    worthless = [block(number, recompute_seconds=0.0, used_at=NOW - number) for number in range(3)]
    assert list(removable(worthless, NOW)) == worthless[::-1]


def test_a_budget_is_exceeded_by_stored_bytes_or_by_a_full_disk() -> None:
    budget = Budget(max_bytes=100, min_free_bytes=50)
    assert budget.surplus(100, 50) == 0
    assert budget.surplus(100, 50, incoming_bytes=7) == 7
    assert budget.surplus(130, 1000) == 30
    assert budget.surplus(10, 20) == 30
    assert budget.surplus(10, None) == 0


def test_the_budget_is_by_default_the_smaller_of_20_gigabytes_and_a_tenth_of_the_disk() -> None:
    assert default_max_bytes(100 * GIGABYTE) == 10 * GIGABYTE
    assert default_max_bytes(1000 * GIGABYTE) == 20 * GIGABYTE
    assert default_max_bytes(None) == 20 * GIGABYTE


@given(forests(), st.integers(0, 40_000))
def test_the_hottest_fit_and_each_comes_behind_its_parent(blocks: list[StoredBlock], max_bytes: int) -> None:
    chosen = choose_hottest(blocks, max_bytes=max_bytes, now=NOW)
    reached = {ROOT}
    for one in chosen:
        assert one.facts.parent in reached
        reached.add(one.facts.hash)
    assert len(reached) == len(chosen) + 1
    assert sum(one.facts.size_bytes for one in chosen) <= max_bytes


def test_a_much_used_block_brings_those_before_it() -> None:
    first, second = block(1), block(2, parent=name(1), hit_count=9)
    other = block(3, hit_count=3)
    assert choose_hottest([first, second, other], max_bytes=2000, now=NOW) == [first, second]
    assert choose_hottest([first, second, other], max_bytes=10_000, now=NOW) == [first, second, other]


def test_the_state_of_a_whole_sequence_is_hot_without_its_parent() -> None:
    whole, gap = block(1, parent=name(9), is_whole=True, token_count=1000), block(2, parent=name(9))
    assert choose_hottest([whole, gap], max_bytes=10_000, now=NOW) == [whole]


def test_a_block_that_no_prompt_can_reach_is_not_hot() -> None:
    assert choose_hottest([block(2, parent=name(1), hit_count=9)], max_bytes=10_000, now=NOW) == []
