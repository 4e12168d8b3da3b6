from hypothesis import given
from hypothesis import strategies as st

from services.worker.detokenize import Detokenizer


@given(st.text(), st.integers(1, 3))
def test_any_cut_of_the_bytes_gives_the_same_text(text: str, size: int) -> None:
    data = text.encode()
    detokenizer = Detokenizer()
    pieces = [detokenizer.feed(data[start : start + size]) for start in range(0, len(data), size)]
    assert "".join(pieces) + detokenizer.flush() == text


def test_a_character_appears_only_when_it_is_complete() -> None:
    detokenizer = Detokenizer()
    emoji = "🚀".encode()
    assert [detokenizer.feed(emoji[:1]), detokenizer.feed(emoji[1:3]), detokenizer.feed(emoji[3:])] == ["", "", "🚀"]


def test_invalid_bytes_are_replaced_at_once() -> None:
    assert Detokenizer().feed(b"a\xffb") == "a\ufffdb"


def test_flush_replaces_an_incomplete_character() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.feed("é".encode()[:1]) == ""
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""
