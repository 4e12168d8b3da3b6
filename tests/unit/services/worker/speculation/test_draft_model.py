from typing import Any, cast

from services.worker.compute_lock import NoComputeLock
from services.worker.cost import StepShape
from services.worker.speculation.draft_model import DraftModel, DraftOrder
from tests.unit.services.worker.fake_llama import VOCABULARY, FakeContext, expected

PROMPT = list(range(1, 31))


def model(context: FakeContext, *, sequences: int = 2, cells: int = 1000) -> DraftModel:
    return DraftModel(
        cast("Any", context), NoComputeLock(), sequences=sequences, cells=cells, batch_tokens=64, vocab_size=VOCABULARY
    )


def test_drafts_are_what_the_model_itself_would_say() -> None:
    drafts = model(FakeContext()).draft([DraftOrder("a", PROMPT, 4), DraftOrder("b", PROMPT[:20], 2)])
    assert drafts == [expected(PROMPT, 4), expected(PROMPT[:20], 2)]


def test_all_drafts_grow_by_one_token_a_call() -> None:
    context = FakeContext()
    model(context).draft([DraftOrder("a", PROMPT, 4), DraftOrder("b", PROMPT[:20], 2)])
    assert [len(step) for step in context.steps] == [2, 2, 1, 1]


def test_a_wrong_draft_is_forgotten_and_what_was_said_instead_is_read() -> None:
    context = FakeContext()
    small = model(context)
    small.draft([DraftOrder("a", PROMPT, 4)])
    said = [*PROMPT, 99]
    assert small.draft([DraftOrder("a", said, 3)]) == [expected(said, 3)]
    assert context.steps[4] == [(context.steps[0][0][0], 1)]


def test_a_text_is_read_in_parts_and_what_is_left_is_known() -> None:
    small = model(FakeContext())
    assert small.lag("a", PROMPT) == 29
    small.cost.observe(StepShape(1, 1), 0.01)
    small.cost.observe(StepShape(16, 1), 0.16)
    small.catch_up("a", PROMPT, seconds=0.1)
    assert 15 <= small.lag("a", PROMPT) <= 22
    while small.lag("a", PROMPT):
        small.catch_up("a", PROMPT, seconds=0.1)
    assert small.draft([DraftOrder("a", PROMPT, 2)]) == [expected(PROMPT, 2)]


def test_the_next_request_that_begins_alike_finds_the_text_read() -> None:
    small = model(FakeContext())
    small.draft([DraftOrder("a", PROMPT, 2), DraftOrder("b", [7, 8, 9], 2)])
    small.release("a")
    small.release("b")
    assert small.lag("c", [*PROMPT, 50, 51]) == 1


def test_texts_of_requests_that_ended_make_room() -> None:
    small = model(FakeContext(), cells=40)
    small.draft([DraftOrder("a", PROMPT, 2)])
    small.release("a")
    assert small.draft([DraftOrder("b", [99, *PROMPT], 3)]) == [expected([99, *PROMPT], 3)]


def test_without_room_nothing_is_drafted() -> None:
    small = model(FakeContext(), cells=40)
    small.draft([DraftOrder("a", PROMPT, 2)])
    assert small.draft([DraftOrder("b", [99, *PROMPT], 3)]) == [[]]
