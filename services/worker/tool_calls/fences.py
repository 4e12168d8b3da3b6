"""Code blocks in an answer: some hold calls, the others are text whatever stands in them."""

import enum
from collections.abc import Generator
from typing import Final

from services.worker.json_stream import JsonReader
from services.worker.json_strings import END
from services.worker.tool_calls.call import NotACall

_MAX_INFO_CHARS: Final = 40
_MIN_LENGTH: Final = 3


class _Kind(enum.Enum):
    NONE = enum.auto()
    TEXT = enum.auto()
    CALLS = enum.auto()


class Fences:
    """Knows which block the answer is in, and which one it may just have opened."""

    def __init__(self, reader: JsonReader) -> None:
        self._reader = reader
        self._kind = _Kind.NONE
        self._length = 0
        self._opened_length = 0

    @property
    def is_in_block(self) -> bool:
        """Whether the answer is in a block."""
        return self._kind is not _Kind.NONE

    @property
    def is_in_text(self) -> bool:
        """Whether the answer is in a block that holds no calls."""
        return self._kind is _Kind.TEXT

    def forget_opened(self) -> None:
        """Begins to look for a call: no block was opened for it yet."""
        self._opened_length = 0

    def read(self) -> Generator[None, None, str | None]:
        """Reads a fence and returns what follows it on its line, or None if it closed a block of calls.

        Raises `NotACall` if it is part of the text.
        """
        length = yield from self._count_backticks()
        info = yield from self._read_info(length)
        ends_line = self._reader.current in {"\n", END}
        if self._kind is _Kind.NONE or info or not ends_line:
            self._opened_length = self._opened_length or length
            return info
        if self._kind is _Kind.CALLS:
            self._kind = _Kind.NONE
            return None
        if length >= self._length:
            self._kind = _Kind.NONE
        raise NotACall

    def commit(self) -> None:
        """A call was found: the block that was opened for it holds calls."""
        if self._opened_length:
            self._kind, self._length = _Kind.CALLS, self._opened_length

    def reject(self, *, starts_line: bool) -> None:
        """No call was found: the block that was opened, if a block it is, holds text."""
        if self._opened_length and starts_line and self._kind is not _Kind.TEXT:
            self._kind, self._length = _Kind.TEXT, self._opened_length

    def _count_backticks(self) -> Generator[None, None, int]:
        length = 0
        while self._reader.current == "`":
            length += 1
            yield
        if length < _MIN_LENGTH:
            raise NotACall
        return length

    def _read_info(self, length: int) -> Generator[None, None, str]:
        info: list[str] = []
        while self._reader.current not in {"\n", "{", "[", "<", END}:
            if self._reader.current == "`":
                raise NotACall
            if len(info) >= _MAX_INFO_CHARS:
                self._opened_length = length
                raise NotACall
            info.append(self._reader.current)
            yield
        return "".join(info).strip()
