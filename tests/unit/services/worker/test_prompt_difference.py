import random

from services.worker.blocks import as_tokens
from services.worker.prompt_difference import Difference, find_difference

SOURCE = random.Random(3)
TEXT = [SOURCE.randrange(10_000) for _ in range(400)]


def difference(known: list[int], prompt: list[int]) -> Difference | None:
    return find_difference(as_tokens(known), as_tokens(prompt))


def test_a_prompt_that_goes_on_where_a_known_one_ends_differs_nowhere() -> None:
    assert difference(TEXT[:100], TEXT) is None
    assert difference(TEXT, TEXT[:100]) is None
    assert difference(TEXT, TEXT) is None


def test_a_changed_word_costs_all_that_stands_behind_it() -> None:
    found = difference([*TEXT[:50], -1, -2, *TEXT[50:]], [*TEXT[:50], -3, *TEXT[50:]])
    assert found == Difference(start=50, known_end=52, end=51, repeated_count=350, place_count=1)


def test_an_inserted_word_is_a_place_of_no_length_in_the_known_prompt() -> None:
    found = difference(TEXT, [*TEXT[:50], -3, *TEXT[50:]])
    assert found == Difference(start=50, known_end=50, end=51, repeated_count=350, place_count=1)


def test_two_changed_words_are_two_places() -> None:
    begin, middle, end = TEXT[:50], TEXT[50:200], TEXT[200:]
    found = difference([*begin, -1, *middle, -1, *end], [*begin, -2, *middle, -2, *end])
    assert found is not None
    assert (found.place_count, found.repeated_count) == (2, 350)


def test_prompts_that_never_meet_again_repeat_nothing() -> None:
    found = difference([*TEXT[:50], *TEXT[50:100]], [*TEXT[:50], *TEXT[200:260]])
    assert found == Difference(start=50, known_end=100, end=110, repeated_count=0, place_count=1)
