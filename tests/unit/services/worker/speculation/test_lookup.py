import random
import time

from hypothesis import given
from hypothesis import strategies as st

from services.worker.speculation.acceptance import MatchAcceptance
from services.worker.speculation.lookup import SHORTEST_MATCH, Lookup

SEQUENCES = st.lists(st.integers(0, 3), max_size=60)


def lookup(tokens: list[int]) -> Lookup:
    return Lookup(tokens, MatchAcceptance())


def occurs_before(tokens: list[int], guess: list[int]) -> bool:
    """Whether the last tokens and the guess follow each other at an earlier place, which may run into the end."""
    whole = [*tokens, *guess]
    wanted = whole[len(tokens) - SHORTEST_MATCH :]
    return any(whole[start : start + len(wanted)] == wanted for start in range(len(tokens) - SHORTEST_MATCH))


@given(SEQUENCES, SEQUENCES, st.integers(1, 8))
def test_every_guess_follows_an_earlier_occurrence_of_the_end(first: list[int], more: list[int], count: int) -> None:
    tokens = list(first)
    followed = lookup(tokens)
    for token in more:
        tokens.append(token)
        followed.advance()
        if guess := followed.guess(count):
            assert len(guess) == count
            assert occurs_before(tokens, guess)


@given(SEQUENCES, SEQUENCES)
def test_there_is_a_guess_exactly_if_the_end_occurred_before(first: list[int], more: list[int]) -> None:
    tokens = list(first)
    followed = lookup(tokens)
    for token in more:
        tokens.append(token)
        followed.advance()
    end = tokens[-SHORTEST_MATCH:]
    seen = len(end) == SHORTEST_MATCH and any(
        tokens[start : start + SHORTEST_MATCH] == end for start in range(len(tokens) - SHORTEST_MATCH)
    )
    assert bool(followed.match_length) == seen


@given(SEQUENCES, SEQUENCES)
def test_the_match_is_as_long_as_it_says(first: list[int], more: list[int]) -> None:
    tokens = list(first)
    followed = lookup(tokens)
    for token in more:
        tokens.append(token)
        followed.advance()
        if length := followed.match_length:
            assert any(tokens[n : n + length] == tokens[-length:] for n in range(len(tokens) - length))


def test_the_longest_match_wins_over_the_latest() -> None:
    long_place, short_place = [1, 2, 3, 4, 5, 6, 70], [9, 4, 5, 6, 80]
    assert lookup([*long_place, *short_place, 1, 2, 3, 4, 5, 6]).guess(1) == [70]


def test_among_equal_matches_the_latest_wins() -> None:
    assert lookup([8, 4, 5, 6, 70, 9, 4, 5, 6, 80, 7, 4, 5, 6]).guess(1) == [80]


def test_a_text_that_repeats_itself_goes_on_repeating() -> None:
    assert lookup([5, 1, 2, 1, 2, 1, 2, 1]).guess(5) == [2, 1, 2, 1, 2]


def test_a_place_is_followed_as_long_as_it_is_right() -> None:
    source = list(range(100, 140))
    tokens = [*source, 1, *source[:3]]
    followed = lookup(tokens)
    for token in source[3:20]:
        assert followed.guess(1) == [token]
        tokens.append(token)
        followed.advance()
    assert followed.match_length == 20


def test_a_copy_is_picked_up_again_behind_a_change() -> None:
    source = list(range(100, 140))
    tokens = [*source, 1, *source[:3]]
    followed = lookup(tokens)
    for token in [*source[3:20], 7, 8, *source[21:24]]:
        tokens.append(token)
        followed.advance()
    assert followed.guess(1) == [source[24]]
    assert (followed.match_length, followed.trust) == (3, 23)


def test_what_would_have_been_guessed_is_learned_from_without_a_draft() -> None:
    acceptance = MatchAcceptance()
    source = list(range(100, 140))
    tokens = [*source, 1, *source[:3]]
    followed = Lookup(tokens, acceptance)
    before = acceptance.chances(10, 1)[0]
    for token in source[3:20]:
        tokens.append(token)
        followed.advance()
    assert acceptance.chances(10, 1)[0] > before


def test_a_long_prompt_is_indexed_in_milliseconds_and_a_token_in_microseconds() -> None:
    chance = random.Random(1)
    tokens = [chance.randrange(1000) for _ in range(10_000)]
    index_seconds = min(_seconds(lambda: lookup(tokens)) for _ in range(5))
    followed = lookup(tokens)

    def append() -> None:
        tokens.append(chance.randrange(1000))
        followed.advance()
        followed.guess(16)

    token_seconds = sorted(_seconds(append) for _ in range(500))[250]
    assert index_seconds < 0.05  # 3 ms on a quiet machine
    assert token_seconds < 0.0005


def _seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
