"""The messages and channels in which gpt-oss answers, split while streaming.

`analysis` is reasoning, `final` and `commentary` are content, and a message with a recipient is a call, which is passed
on as it was written. Source: https://github.com/openai/harmony/blob/main/docs/format.md.
"""

import enum
import re
from collections.abc import Callable
from typing import Final

from services.worker.pieces import Piece, overlap, pieces_of

START: Final = "<|start|>"
CHANNEL: Final = "<|channel|>"
MESSAGE: Final = "<|message|>"
ANALYSIS: Final = "analysis"
_END: Final = "<|end|>"
_CALL: Final = "<|call|>"
_RETURN: Final = "<|return|>"
CONTROL_TEXTS: Final = frozenset({START, CHANNEL, MESSAGE, _END, _CALL, _RETURN, "<|constrain|>"})
_RECIPIENT: Final = re.compile(r"\bto=")
_ENDS: Final = (_END, _CALL, _RETURN, START, CHANNEL)
_HEADER_STARTS: Final = (START, CHANNEL, MESSAGE, "to=")
_MAX_HEADER_CHARS: Final = 256
_GAP: Final = "\n\n"


class _State(enum.Enum):
    BETWEEN = enum.auto()
    HEADER = enum.auto()
    ANALYSIS = enum.auto()
    CONTENT = enum.auto()
    CALL = enum.auto()


class ChannelSplitter:
    """Splits an answer into the messages that it consists of; text outside of messages is content."""

    def __init__(self, *, starts_in_analysis: bool = False) -> None:
        self._state = _State.ANALYSIS if starts_in_analysis else _State.BETWEEN
        self._buffer = ""
        self._spoken = {True: False, False: False}
        self._needs_gap = False
        self._takers: dict[_State, Callable[[], list[Piece] | None]] = {
            _State.BETWEEN: self._take_between,
            _State.HEADER: self._take_header,
            _State.ANALYSIS: lambda: self._take_body(is_reasoning=True),
            _State.CONTENT: lambda: self._take_body(is_reasoning=False),
            _State.CALL: self._take_call,
        }

    @property
    def is_reasoning(self) -> bool:
        """Whether the next token belongs to the reasoning."""
        return self._state is _State.ANALYSIS

    def feed(self, text: str) -> list[Piece]:
        """Takes the next text and returns what is decided."""
        self._buffer += text
        pieces: list[Piece] = []
        while (taken := self._takers[self._state]()) is not None:
            pieces += taken
        return pieces + self._shown()

    def flush(self) -> list[Piece]:
        """Ends the text: what was held back is decided."""
        text, self._buffer = self._buffer, ""
        if self._state is _State.BETWEEN and not text.strip():
            return []
        return self._said(text, is_reasoning=self._state is _State.ANALYSIS)

    def _take_between(self) -> list[Piece] | None:
        """Waits for a message; `None` here and below says that more text is needed."""
        text = self._buffer.lstrip()
        if any(start.startswith(text) and start != text for start in _HEADER_STARTS):
            return None
        is_header = text.startswith(_HEADER_STARTS)
        self._state = _State.HEADER if is_header else _State.CONTENT
        self._buffer = text if is_header else self._buffer
        return []

    def _take_header(self) -> list[Piece] | None:
        header, message, body = self._buffer.partition(MESSAGE)
        if recipient := _RECIPIENT.search(header):
            channel = header.find(CHANNEL)
            mark = CHANNEL if 0 <= channel < recipient.start() else START
            self._buffer = (
                self._buffer[channel + len(CHANNEL) :] if mark == CHANNEL else self._buffer.removeprefix(START)
            )
            self._state = _State.CALL
            return pieces_of(mark, is_reasoning=False)
        if not message:
            if len(header) <= _MAX_HEADER_CHARS:
                return None
            self._state = _State.CONTENT
            return []
        is_analysis = header.rpartition(CHANNEL)[2].strip().startswith(ANALYSIS)
        self._begin(_State.ANALYSIS if is_analysis else _State.CONTENT)
        self._buffer = body
        return []

    def _begin(self, state: _State) -> None:
        self._state = state
        self._needs_gap = self._spoken[state is _State.ANALYSIS]

    def _take_body(self, *, is_reasoning: bool) -> list[Piece] | None:
        found = [(start, end) for end in _ENDS if (start := self._buffer.find(end)) >= 0]
        if not found:
            return None
        start, end = min(found)
        text = self._buffer[:start]
        self._buffer = self._buffer[start if end in (START, CHANNEL) else start + len(end) :]
        self._state = _State.BETWEEN
        return self._said(text, is_reasoning=is_reasoning)

    def _take_call(self) -> list[Piece] | None:
        """Passes a call on, its end included: the parser of calls reads it."""
        found = [start + len(end) for end in (_CALL, _END) if (start := self._buffer.find(end)) >= 0]
        found += [start for start in (self._buffer.find(START),) if start >= 0]
        if not found:
            return None
        text, self._buffer = self._buffer[: min(found)], self._buffer[min(found) :]
        self._state = _State.BETWEEN
        return pieces_of(text, is_reasoning=False)

    def _shown(self) -> list[Piece]:
        """What of the buffer can't be the beginning of a mark."""
        if self._state in (_State.BETWEEN, _State.HEADER):
            return []
        held = max(overlap(self._buffer, end) for end in _ENDS)
        text = self._buffer[: len(self._buffer) - held]
        self._buffer = self._buffer[len(text) :]
        if self._state is _State.CALL:
            return pieces_of(text, is_reasoning=False)
        return self._said(text, is_reasoning=self._state is _State.ANALYSIS)

    def _said(self, text: str, *, is_reasoning: bool) -> list[Piece]:
        if not text:
            return []
        gap = _GAP if self._needs_gap else ""
        self._needs_gap = False
        self._spoken[is_reasoning] = True
        return pieces_of(gap + text, is_reasoning=is_reasoning)
