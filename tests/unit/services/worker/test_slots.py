from dataclasses import dataclass, field

from services.worker.blocks import as_tokens
from services.worker.slots import SlotBook, SlotState


@dataclass
class Request:
    request_id: str = "r2"
    tokens: list[int] = field(default_factory=lambda: [1, 2, 3, 4])
    prompt_token_count: int = 3
    generated_count: int = 1


def test_a_slot_stands_for_the_conversation_that_last_ran_in_it() -> None:
    book = SlotBook(2)
    book.begin(0, "r1")
    book.end(0, [1, 2, 3])
    assert book.states({})[0] == SlotState(0, request_id="r1", task_number=1, token_count=3)
    book.begin(0, "r2")
    assert book.tokens(0) is None


def test_a_running_request_is_shown_as_it_is_now() -> None:
    book = SlotBook(1)
    book.begin(0, "r2")
    (state,) = book.states({0: Request()})
    assert state == SlotState(0, True, "r2", "", 1, 4, 3, 1)


def test_slots_that_are_the_beginning_of_a_longer_conversation_stand_for_nothing_more() -> None:
    book = SlotBook(3)
    for slot_id, tokens in ((0, [1, 2]), (1, [1, 3]), (2, [1, 2, 3])):
        book.begin(slot_id, "r")
        book.end(slot_id, tokens)
    assert [state.token_count for state in book.states({})] == [0, 2, 3]


def test_a_restored_conversation_is_shown_under_its_name() -> None:
    book = SlotBook(1)
    book.restore(0, as_tokens([1, 2]), "mine.bin")
    assert book.states({})[0] == SlotState(0, filename="mine.bin", token_count=2)
    book.clear_all()
    assert book.states({})[0] == SlotState(0)
