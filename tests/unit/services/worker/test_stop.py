import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.stop import StopMatcher, StopResult


def feed_all(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    text = ""
    for piece in pieces:
        result = matcher.feed(piece)
        text += result.text
        if result.stop is not None:
            return text, result.stop
    return text + matcher.flush(), None


@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.text("abc", max_size=30), st.integers(1, 5))
def test_any_cut_of_the_text_gives_the_same_result(stops: list[str], text: str, size: int) -> None:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert feed_all(stops, pieces) == feed_all(stops, [text]) == feed_all(stops, list(text))


@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.text("abc", max_size=30))
def test_nothing_is_lost_and_no_stop_is_shown(stops: list[str], text: str) -> None:
    shown, stop = feed_all(stops, list(text))
    assert text.startswith(shown + (stop or ""))
    assert not any(candidate in shown for candidate in stops)
    assert stop is not None or shown == text


def test_only_the_possible_beginning_of_a_stop_is_held_back() -> None:
    matcher = StopMatcher(["\n\nUser:"])
    assert matcher.feed("Hello\n\nUs") == StopResult("Hello")
    assert matcher.feed("e a knife\n") == StopResult("\n\nUse a knife")
    assert matcher.flush() == "\n"


@pytest.mark.parametrize(("stops", "stop"), [(["END", "ND"], "END"), (["abEND", "b"], "b")])
def test_the_stop_that_is_complete_first_wins(stops: list[str], stop: str) -> None:
    assert feed_all(stops, ["abEND"])[1] == stop


def test_without_stops_text_passes_and_empty_stops_are_ignored() -> None:
    assert StopMatcher([""]).feed("abc") == StopResult("abc")
