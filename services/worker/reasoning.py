"""Reasoning that a model writes before its answer, split from the answer while streaming."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_OPEN_TAG: Final = "<think>"
_CLOSE_TAG: Final = "</think>"


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """How a model marks its reasoning; `starts_open` if the prompt already ends with the opening tag."""

    open_tag: str = _OPEN_TAG
    close_tag: str = _CLOSE_TAG
    starts_open: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one kind."""

    text: str
    is_reasoning: bool


class _State(enum.Enum):
    START = enum.auto()
    REASONING = enum.auto()
    GAP = enum.auto()
    CONTENT = enum.auto()


def pick_reasoning(template_source: str, prompt_text: str) -> ReasoningFormat | None:
    """Tells from its chat template and the rendered prompt how the model will mark reasoning, if at all."""
    if _CLOSE_TAG not in template_source:
        return None
    return ReasoningFormat(starts_open=prompt_text.rstrip().endswith(_OPEN_TAG))


class ReasoningSplitter:
    """Splits an answer into reasoning and content; white space around the tags belongs to neither.

    Tags count only before the answer's content: later ones are text that the model talks about.
    """

    def __init__(self, reasoning_format: ReasoningFormat) -> None:
        self._format = reasoning_format
        self._state = _State.START
        self._is_open = reasoning_format.starts_open
        self._has_reasoning = False
        self._buffer = ""
        self._takers: tuple[tuple[_State, Callable[[], list[Piece]]], ...] = (
            (_State.START, self._take_start),
            (_State.REASONING, self._take_reasoning),
            (_State.GAP, self._take_gap),
            (_State.CONTENT, self._take_content),
        )

    @property
    def is_reasoning(self) -> bool:
        """Whether the next token belongs to the reasoning."""
        return self._is_open

    def feed(self, text: str) -> list[Piece]:
        """Takes the next text and returns what is decided."""
        if self._state is _State.CONTENT:
            return _piece(text, is_reasoning=False)
        self._buffer += text
        pieces: list[Piece] = []
        for state, take in self._takers:
            if self._state is state:
                pieces += take()
        return pieces

    def flush(self) -> list[Piece]:
        """Ends the text: what was held back is decided."""
        if self._state is _State.GAP:
            self._buffer = ""
        return self._take_buffer(is_reasoning=self._is_open)

    def _take_start(self) -> list[Piece]:
        text = self._buffer.lstrip()
        if text.startswith(self._format.open_tag):
            self._buffer = text[len(self._format.open_tag) :]
            self._is_open = True
        elif self._format.open_tag.startswith(text):  # also when there is only white space so far
            return []
        self._state = _State.REASONING if self._is_open else _State.CONTENT
        return []

    def _take_reasoning(self) -> list[Piece]:
        if not self._has_reasoning:
            self._buffer = self._buffer.lstrip()
        before, tag, after = self._buffer.partition(self._format.close_tag)
        if tag:
            self._state, self._is_open, self._buffer = _State.GAP, False, after
            return _piece(before.rstrip(), is_reasoning=True)
        shown = len(before[: len(before) - _overlap(before, self._format.close_tag)].rstrip())
        self._buffer = before[shown:]
        self._has_reasoning = self._has_reasoning or shown > 0
        return _piece(before[:shown], is_reasoning=True)

    def _take_gap(self) -> list[Piece]:
        self._buffer = self._buffer.lstrip()
        if self._buffer:
            self._state = _State.CONTENT
        return []

    def _take_content(self) -> list[Piece]:
        return self._take_buffer(is_reasoning=False)

    def _take_buffer(self, *, is_reasoning: bool) -> list[Piece]:
        text, self._buffer = self._buffer, ""
        return _piece(text, is_reasoning=is_reasoning)


def _piece(text: str, *, is_reasoning: bool) -> list[Piece]:
    return [Piece(text, is_reasoning)] if text else []


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of the text that begins the tag."""
    lengths = range(min(len(text), len(tag) - 1), 0, -1)
    return next((length for length in lengths if tag.startswith(text[-length:])), 0)
