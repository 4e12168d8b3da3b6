from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.cost import ATTENTION_TILE, StepCost, StepShape, total
from services.worker.scheduler import (
    BATCH_PATIENCE_SECONDS,
    MIN_PREFILL_TOKENS,
    MOST_DELAY_SECONDS,
    Chunk,
    StepLimits,
    delay_seconds,
    in_order,
    in_whole_tiles,
    plan_step,
    shared_length,
    waits_for_sibling,
)

SECONDS_PER_TOKEN = 0.005


@dataclass(eq=False)
class FakeWork:
    name: str
    pending_count: int
    is_decoding: bool = False
    is_batch: bool = False
    arrived_at: float = 0.0
    computed_count: int = 0
    delayed_seconds: float = 0.0


def cost() -> StepCost:
    """Of a machine on which each token takes 5 ms, and twice that behind 5,000 others."""
    cost = StepCost()
    for _ in range(50):
        for start in (0, 2000, 5000):
            for size in (1, 2, 16, 64, 512):
                shape = StepShape.of_row(start, size, 1)
                cost.observe(shape, SECONDS_PER_TOKEN * (size + shape.pair_count / 5000))
    return cost


COST = cost()


def chunks(
    *works: FakeWork, tokens: int = 512, seconds: float = 60.0, drafts: dict[FakeWork, list[int]] | None = None
) -> list[Chunk[FakeWork]]:
    return plan_step(works, now=0.0, limits=StepLimits(tokens, seconds), cost=COST, drafts=drafts)


def plan(*works: FakeWork, tokens: int = 512, seconds: float = 60.0) -> list[tuple[str, int]]:
    return [(chunk.generation.name, chunk.token_count) for chunk in chunks(*works, tokens=tokens, seconds=seconds)]


def test_all_streams_decode_in_one_step() -> None:
    streams = [FakeWork(name, 1, is_decoding=True) for name in "abcd"]
    assert plan(*streams) == [("a", 1), ("b", 1), ("c", 1), ("d", 1)]


def test_a_long_prompt_never_keeps_a_stream_from_decoding() -> None:
    (first, one), (second, prefilled) = plan(
        FakeWork("long", 7000), FakeWork("stream", 1, is_decoding=True), seconds=0.25
    )
    assert (first, one, second) == ("stream", 1, "long")
    assert 40 <= prefilled <= 52


def test_the_deeper_a_prompt_is_computed_the_smaller_are_its_chunks() -> None:
    stream = FakeWork("stream", 1, is_decoding=True)
    shallow, deep = (
        plan(stream, FakeWork("long", 7000, computed_count=count), seconds=0.25)[1][1] for count in (0, 5000)
    )
    assert 0.4 * shallow < deep < 0.6 * shallow


def test_a_step_costs_no_more_than_its_budget_however_many_streams_and_prompts_there_are() -> None:
    streams = [FakeWork(f"s{n}", 1, is_decoding=True, computed_count=1000) for n in range(8)]
    prompts = [FakeWork(f"p{n}", 12, computed_count=3000) for n in range(3)]
    planned = chunks(*streams, *prompts, seconds=0.25)
    assert len(planned) > len(streams) + 1
    seconds = COST.expected_seconds(total(chunk.shape for chunk in planned))
    assert seconds is not None
    assert 0.2 < seconds <= 0.25


def test_a_prompt_comes_to_an_end_where_streams_alone_take_all_the_time() -> None:
    streams = [FakeWork(f"s{n}", 1, is_decoding=True) for n in range(8)]
    assert plan(*streams, FakeWork("a", 100), FakeWork("b", 100), seconds=0.01)[8:] == [("a", MIN_PREFILL_TOKENS)]


def test_a_draft_is_computed_behind_the_known_token_and_leaves_less_to_prompts() -> None:
    stream, prompt = FakeWork("stream", 1, is_decoding=True, computed_count=10), FakeWork("prompt", 500)
    drafted = chunks(stream, prompt, seconds=0.25, drafts={stream: [7, 8, 9]})
    plain = chunks(stream, prompt, seconds=0.25)
    assert (drafted[0].known_count, drafted[0].token_count, drafted[0].output_count) == (1, 4, 4)
    assert drafted[0].shape == StepShape(4, 4, 11 + 12 + 13 + 14)
    assert drafted[1].token_count < plain[1].token_count


def test_only_the_end_of_a_prompt_has_an_output() -> None:
    assert [chunk.output_count for chunk in chunks(FakeWork("short", 12), FakeWork("long", 7000))] == [1, 0]


def test_a_prompt_is_cut_to_the_batch() -> None:
    assert plan(FakeWork("long", 7000), tokens=512) == [("long", 512)]


def test_a_step_that_ends_a_prompt_may_take_a_quarter_longer_where_nobody_decodes() -> None:
    at_once = plan(FakeWork("a", 448), seconds=2.0)  # takes 2.4 s
    assert at_once == [("a", 448)]
    assert plan(FakeWork("a", 512), seconds=2.0)[0][1] < 448
    beside_a_stream = plan(FakeWork("s", 1, is_decoding=True), FakeWork("a", 448), seconds=2.0)
    assert beside_a_stream[1][1] < 448


def test_a_short_prompt_goes_before_a_long_one_and_both_share_the_step() -> None:
    assert plan(FakeWork("long", 7000), FakeWork("short", 12)) == [("short", 12), ("long", 500)]


def test_interactive_work_goes_before_batch_work() -> None:
    title, main = FakeWork("title", 300, is_batch=True), FakeWork("main", 7000)
    assert [work.name for work in in_order([title, main], now=0.0, prefill_rate=100.0)] == ["main", "title"]


def test_batch_work_stands_behind_a_prompt_that_takes_minutes() -> None:
    title, main = FakeWork("title", 300, is_batch=True), FakeWork("main", 30_000)
    assert [work.name for work in in_order([title, main], now=60.0, prefill_rate=100.0)] == ["main", "title"]


def test_batch_work_beside_a_stream_makes_a_step_longer_by_what_is_left_of_the_delay_allowed() -> None:
    stream, summary = FakeWork("main", 1, is_decoding=True), FakeWork("summary", 9000, is_batch=True)
    planned = chunks(stream, summary)
    spent = delay_seconds(planned, now=0.0, cost=COST)
    assert 0.8 * MOST_DELAY_SECONDS < spent <= MOST_DELAY_SECONDS
    stream.delayed_seconds = MOST_DELAY_SECONDS - 0.02
    assert 1 < plan(stream, summary)[1][1] <= 5
    stream.delayed_seconds = MOST_DELAY_SECONDS
    assert plan(stream, summary) == [("main", 1)]


def test_a_title_decodes_beside_a_stream_until_that_was_delayed_enough() -> None:
    stream, title = FakeWork("main", 1, is_decoding=True), FakeWork("title", 1, is_decoding=True, is_batch=True)
    assert plan(stream, title) == [("main", 1), ("title", 1)]
    stream.delayed_seconds = MOST_DELAY_SECONDS
    assert plan(stream, title) == [("main", 1)]


def test_who_was_delayed_most_says_how_much_more_may_be() -> None:
    streams = [FakeWork("a", 1, is_decoding=True), FakeWork("b", 1, is_decoding=True, delayed_seconds=1.0)]
    assert plan(*streams, FakeWork("summary", 9000, is_batch=True)) == [("a", 1), ("b", 1)]


def test_nobody_is_delayed_where_all_work_is_of_one_kind() -> None:
    title, summary = FakeWork("title", 1, is_decoding=True, is_batch=True), FakeWork("summary", 9000, is_batch=True)
    assert delay_seconds(chunks(title, summary), now=0.0, cost=COST) == 0.0
    assert delay_seconds(chunks(FakeWork("main", 900)), now=0.0, cost=COST) == 0.0


def test_where_nobody_is_in_front_batch_work_has_the_whole_step() -> None:
    title, summary = FakeWork("title", 1, is_decoding=True, is_batch=True), FakeWork("summary", 9000, is_batch=True)
    assert plan(title, summary) == [("title", 1), ("summary", 511)]


def test_a_title_that_has_waited_for_long_decodes_beside_a_stream() -> None:
    stream = FakeWork("main", 1, is_decoding=True)
    title = FakeWork("title", 1, is_decoding=True, is_batch=True, arrived_at=-BATCH_PATIENCE_SECONDS)
    assert plan(stream, title) == [("main", 1), ("title", 1)]


def test_nothing_starves() -> None:
    old_title = FakeWork("title", 300, is_batch=True, arrived_at=0.0)
    new_main = FakeWork("main", 7000, arrived_at=BATCH_PATIENCE_SECONDS)
    ordered = in_order([old_title, new_main], now=BATCH_PATIENCE_SECONDS, prefill_rate=100.0)
    assert [work.name for work in ordered] == ["title", "main"]


def test_a_sibling_waits_only_if_enough_is_shared() -> None:
    assert waits_for_sibling(reusable_count=0, promised_count=3000, has_waited=False)
    assert not waits_for_sibling(reusable_count=2990, promised_count=3000, has_waited=False)


def test_a_sibling_that_has_waited_waits_to_the_end() -> None:
    assert waits_for_sibling(reusable_count=2990, promised_count=3000, has_waited=True)
    assert not waits_for_sibling(reusable_count=3000, promised_count=3000, has_waited=True)


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_the_shared_length_is_where_two_sequences_first_differ(left: list[int], right: list[int]) -> None:
    length = shared_length(left, right)
    assert left[:length] == right[:length]
    assert length == min(len(left), len(right)) or left[length] != right[length]


@pytest.mark.parametrize(
    ("count", "beside", "pending", "planned"),
    [
        (225, 0, 5000, 192),
        (225, 4, 5000, 188),  # a tile holds the streams' tokens too
        (192, 0, 235, 128),  # then 107, in place of 43 that attend one by one
        (192, 0, 192, 192),
        (235, 0, 235, 235),
        (64, 0, 100, 64),
        (40, 0, 5000, 40),
        (20, 70, 5000, 20),
    ],
)
def test_chunks_end_where_attention_tiles_end(count: int, beside: int, pending: int, planned: int) -> None:
    assert in_whole_tiles(count, beside=beside, pending=pending) == planned


@given(st.integers(1, 600), st.integers(0, 200), st.integers(1, 2000))
def test_a_chunk_in_whole_tiles_is_never_longer_and_never_empty(count: int, beside: int, pending: int) -> None:
    count = min(count, pending)
    planned = in_whole_tiles(count, beside=beside, pending=pending)
    assert 0 < planned <= count
    if planned >= 2 * ATTENTION_TILE:
        assert planned == pending or pending - planned >= ATTENTION_TILE
