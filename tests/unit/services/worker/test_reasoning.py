import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.reasoning import ReasoningFormat, ReasoningSplitter, pick_reasoning


def split(text: str, *, starts_open: bool = False, size: int | None = None) -> tuple[str, str]:
    splitter = ReasoningSplitter(ReasoningFormat(starts_open=starts_open))
    step = size or max(len(text), 1)
    pieces = [piece for start in range(0, len(text), step) for piece in splitter.feed(text[start : start + step])]
    pieces += splitter.flush()
    reasoning = "".join(piece.text for piece in pieces if piece.is_reasoning)
    return reasoning, "".join(piece.text for piece in pieces if not piece.is_reasoning)


@pytest.mark.parametrize(
    ("text", "starts_open", "expected"),
    [
        ("<think>\nwhy\n</think>\n\nbecause", False, ("why", "because")),
        ("why\n\nnot\n</think>\nbecause", True, ("why\n\nnot", "because")),
        ("<think>\nwhy</think>because", True, ("why", "because")),
        ("\n<think></think>\nhi", False, ("", "hi")),
        ("no tags <think>here</think>", False, ("", "no tags <think>here</think>")),
        ("<think>a < b </thin b</think>x </think> y", False, ("a < b </thin b", "x </think> y")),
        ("<think>cut in the middle", False, ("cut in the middle", "")),
        ("<thi", False, ("", "<thi")),
        ("  indented", False, ("", "  indented")),
    ],
)
@pytest.mark.parametrize("size", [None, 1, 2, 3, 5])
def test_reasoning_is_split_off(text: str, starts_open: bool, expected: tuple[str, str], size: int | None) -> None:
    assert split(text, starts_open=starts_open, size=size) == expected


@given(st.text("<think>/ \nab", max_size=40), st.booleans(), st.integers(1, 7))
def test_any_cut_of_the_text_gives_the_same_result(text: str, starts_open: bool, size: int) -> None:
    assert split(text, starts_open=starts_open, size=size) == split(text, starts_open=starts_open)


def test_reasoning_streams_as_it_comes() -> None:
    splitter = ReasoningSplitter(ReasoningFormat())
    assert [piece.text for text in ("<think>", "I", " see", ".") for piece in splitter.feed(text)] == ["I", " see", "."]
    assert splitter.is_reasoning


def test_the_format_is_read_from_template_and_prompt() -> None:
    assert pick_reasoning("{{ messages }}", "<think>\n") is None
    assert pick_reasoning("...</think>...", "<|im_start|>assistant\n<think>\n") == ReasoningFormat(starts_open=True)
    assert pick_reasoning("...</think>...", "<think>\n\n</think>\n\n") == ReasoningFormat(starts_open=False)
