from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.sealing import BlockRole
from services.worker.write_policy import (
    BlockCost,
    Origin,
    Part,
    WearBudget,
    expected_uses,
    quiet_seconds,
    role_of,
    urgency,
    worth_seconds,
)

MAIN = Origin(pb.REQUEST_CLASS_MAIN, Part.HISTORY, seen_count=1)
SYSTEM = replace(MAIN, part=Part.SYSTEM)
TITLE = Origin(pb.REQUEST_CLASS_TITLE, Part.SYSTEM, seen_count=1)
SUBAGENT = Origin(pb.REQUEST_CLASS_SUBAGENT, Part.GENERATED)
ON_A_CPU = BlockCost(size_bytes=7_000_000, recompute_seconds=3.0)


@pytest.mark.parametrize("one_off", [pb.REQUEST_CLASS_TITLE, pb.REQUEST_CLASS_COMPACTION, pb.REQUEST_CLASS_FIM])
@pytest.mark.parametrize("part", Part)
def test_what_never_returns_is_worth_nothing_until_it_has(one_off: "pb.RequestClass.ValueType", part: Part) -> None:
    first = Origin(one_off, part, seen_count=1)
    assert worth_seconds(first, ON_A_CPU) < 0
    assert quiet_seconds(first) is None
    assert worth_seconds(replace(first, has_returned=True), ON_A_CPU) > 0


def test_system_text_is_worth_more_than_history_and_that_more_than_a_subagent_that_came_back() -> None:
    returned = replace(SUBAGENT, has_returned=True)
    assert expected_uses(SYSTEM) > expected_uses(MAIN) > expected_uses(returned) > expected_uses(TITLE) == 0


def test_the_end_of_a_subagent_is_worth_nothing_until_it_returns_but_what_it_shares_with_others_is() -> None:
    for part in (Part.HISTORY, Part.GENERATED):
        assert worth_seconds(replace(SUBAGENT, part=part, seen_count=3), ON_A_CPU) < 0
        assert worth_seconds(replace(SUBAGENT, part=part, has_returned=True), ON_A_CPU) > 0
    assert expected_uses(replace(SUBAGENT, part=Part.SYSTEM)) == expected_uses(SYSTEM)
    assert expected_uses(replace(SUBAGENT, goes_on=True)) == expected_uses(replace(MAIN, goes_on=True))


def test_a_conversation_that_surely_goes_on_comes_before_everything_else() -> None:
    called = replace(MAIN, goes_on=True)
    assert urgency(called, ON_A_CPU) > urgency(SYSTEM, ON_A_CPU) > urgency(MAIN, ON_A_CPU)
    assert urgency(replace(SYSTEM, goes_on=True), ON_A_CPU) > urgency(called, ON_A_CPU)


def test_what_is_restored_no_faster_than_computed_is_not_written() -> None:
    assert worth_seconds(SYSTEM, replace(ON_A_CPU, restore_seconds=3.0)) < 0
    assert worth_seconds(SYSTEM, replace(ON_A_CPU, restore_seconds=0.1)) > 0


def test_bytes_have_their_price() -> None:
    assert worth_seconds(MAIN, BlockCost(size_bytes=32_000_000, recompute_seconds=0.02)) < 0
    assert worth_seconds(SYSTEM, BlockCost(size_bytes=32_000_000, recompute_seconds=0.02)) > 0


def test_a_tail_waits_longer_while_a_tool_works_and_is_never_written_of_a_subagent_that_ended() -> None:
    after_call, after_answer = quiet_seconds(replace(SUBAGENT, goes_on=True)), quiet_seconds(MAIN)
    assert after_call is not None
    assert after_answer is not None
    assert after_call > after_answer
    assert quiet_seconds(SUBAGENT) is None


def test_roles_say_how_soon_the_store_may_give_a_block_up() -> None:
    origins = (SYSTEM, MAIN, SUBAGENT, replace(SUBAGENT, goes_on=True), TITLE)
    assert [role_of(origin) for origin in origins] == [
        BlockRole.SYSTEM, BlockRole.CONVERSATION, BlockRole.ENDED, BlockRole.CONVERSATION, BlockRole.SYSTEM,
    ]  # fmt: skip


@given(st.integers(1, 50_000), st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 10_000_000))))
def test_never_more_is_written_than_the_bound_allows(bound: int, work: list[tuple[int, int]]) -> None:
    wear = WearBudget(bound)
    for computed, size in work:
        wear.note_computed(computed)
        if wear.allows(size):
            wear.note_written(size)
        assert wear.written_bytes <= bound * wear.computed_count


def test_without_a_bound_everything_may_be_written() -> None:
    assert WearBudget(None).allows(10**12)
