from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.upstream import sse
from services.upstream.sse import SseParser

STREAM = (
    b"\xef\xbb\xbfdata: first\n\n"
    b": a comment\r\n\r\n"
    b"event: message\rid: 7\rdata:no space\r\r"
    b"data: two\r\ndata:  lines\r\n\r\n"
    b"retry: 10\n\n"
    b"data\n\n"
    b"\n\n\r\n"
    b"data: w\xc3\xb6rld \xf0\x9f\x99\x82\n\n"
    b"data: last without an empty line"
)
EVENTS = ["first", "no space", "two\n lines", "", "wörld 🙂", "last without an empty line"]


def parse(pieces: list[bytes]) -> list[str]:
    parser = SseParser()
    events = [data for piece in pieces for data in parser.feed(piece)]
    return events + parser.close()


def test_every_line_end_comment_and_field_is_read_as_the_standard_says() -> None:
    assert parse([STREAM]) == EVENTS


@pytest.mark.parametrize("place", range(len(STREAM) + 1))
def test_a_split_at_any_byte_changes_nothing(place: int) -> None:
    assert parse([STREAM[:place], STREAM[place:]]) == EVENTS


@given(st.lists(st.integers(0, len(STREAM))))
def test_any_number_of_splits_changes_nothing(places: list[int]) -> None:
    bounds = [0, *sorted(places), len(STREAM)]
    assert parse([STREAM[start:end] for start, end in pairwise(bounds)]) == EVENTS


def test_single_bytes_are_enough() -> None:
    assert parse([STREAM[i : i + 1] for i in range(len(STREAM))]) == EVENTS


def test_an_event_is_returned_as_soon_as_its_empty_line_is_there() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\n") == []
    assert parser.feed(b"\ndata: b") == ["a"]


@pytest.mark.parametrize("endless", [b"x" * 50, b"data: " + b"x" * 20 + b"\n"])
def test_an_event_without_end_is_refused(endless: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    with pytest.raises(ValueError, match="larger than"):
        parse([endless] * 100)


def test_a_long_stream_of_small_events_is_no_large_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    parser = SseParser()
    assert sum(len(parser.feed(b": keep-alive\n\ndata: x\n\n")) for _ in range(100)) == 100
