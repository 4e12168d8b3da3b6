from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from services.worker.scheduler import in_order, plan_step, shared_length, waits_for_sibling


@dataclass
class FakeWork:
    name: str
    pending_count: int
    is_decoding: bool = False
    is_batch: bool = False
    arrived_at: float = 0.0


def plan(*works: FakeWork, batch_tokens: int = 512, prefill_tokens: int = 512) -> list[tuple[str, int]]:
    chunks = plan_step(works, now=0.0, batch_tokens=batch_tokens, prefill_tokens=prefill_tokens, prefill_rate=100.0)
    return [(chunk.generation.name, chunk.token_count) for chunk in chunks]


def test_all_streams_decode_in_one_step() -> None:
    streams = [FakeWork(name, 1, is_decoding=True) for name in "abcd"]
    assert plan(*streams) == [("a", 1), ("b", 1), ("c", 1), ("d", 1)]


def test_a_long_prompt_never_keeps_a_stream_from_decoding() -> None:
    assert plan(FakeWork("long", 7000), FakeWork("stream", 1, is_decoding=True), prefill_tokens=40) == [
        ("stream", 1),
        ("long", 40),
    ]


def test_a_prompt_is_cut_to_the_batch() -> None:
    assert plan(FakeWork("long", 7000), batch_tokens=512) == [("long", 512)]


def test_a_short_prompt_goes_before_a_long_one_and_both_share_the_step() -> None:
    assert plan(FakeWork("long", 7000), FakeWork("short", 12)) == [("short", 12), ("long", 500)]


def test_interactive_work_goes_before_batch_work() -> None:
    title, main = FakeWork("title", 300, is_batch=True), FakeWork("main", 7000)
    assert [work.name for work in in_order([title, main], now=0.0, prefill_rate=100.0)] == ["main", "title"]


def test_nothing_starves() -> None:
    old_title = FakeWork("title", 300, is_batch=True, arrived_at=0.0)
    new_main = FakeWork("main", 7000, arrived_at=200.0)
    assert [work.name for work in in_order([old_title, new_main], now=200.0, prefill_rate=100.0)] == ["title", "main"]


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
