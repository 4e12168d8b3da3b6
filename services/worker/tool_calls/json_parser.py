"""Calls written as JSON objects: in tags, in a code block, or bare at the start of a line."""

import enum
import re
from collections.abc import Generator
from typing import Final

from services.worker.json_stream import JsonReader
from services.worker.json_strings import END, Steps
from services.worker.tool_calls.call import Call, NotACall
from services.worker.tool_calls.envelope import read_envelope
from services.worker.tool_calls.events import Event, EventLog
from services.worker.tool_calls.names import ToolNames
from services.worker.tool_calls.tags import Tags
from services.worker.tool_calls.text import AnswerText

_OPENING: Final = re.compile(r'\{ ?"name": ?"[^"\\\n]*')
_NATIVE_OPENING: Final = re.compile(r'\{\s*"name"\s*:\s*"[^"\\\n]*')
_MAX_OPENING_CHARS: Final = 64
_MAX_HELD_CHARS: Final = 65_536
_MAX_INFO_CHARS: Final = 40
_MAX_INDENT: Final = 3
_MIN_FENCE: Final = 3
_LEFTOVERS: Final = frozenset("}],;")


class _Fence(enum.Enum):
    NONE = enum.auto()
    PLAIN = enum.auto()
    CALL = enum.auto()


class JsonCallParser:
    """Reads an answer character by character; what may be a call is held back until that is decided."""

    def __init__(self, names: ToolNames, tags: Tags) -> None:
        self._names = names
        self._tags = tags
        self._reader = JsonReader()
        self._log = EventLog()
        self._call: Call | None = None
        self._call_count = 0
        self._held: list[str] | None = None
        self._text = AnswerText(self._log)
        self._is_native = False
        self._fence = _Fence.NONE
        self._fence_length = 0
        self._object_start = 0
        self._opened_length = 0
        self._steps = self._read_answer()
        next(self._steps)

    @property
    def is_in_call(self) -> bool:
        """Whether what comes next belongs to an object that may be a call."""
        return self._call is not None

    @property
    def opening(self) -> str:
        """The object of a call from its brace on, while its name is all that comes next; empty anywhere else.

        Outside a native tag only an object on one line counts: files such as package.json begin with a name, too.
        """
        if self._call is None or self._held is None or len(self._held) - self._object_start > _MAX_OPENING_CHARS:
            return ""
        text = "".join(self._held[self._object_start :])
        pattern = _NATIVE_OPENING if self._call.is_native else _OPENING
        return text if pattern.fullmatch(text) else ""

    @property
    def misnamed(self) -> str:
        """The object of a call from its brace on, if its name was not offered but arguments follow; else empty."""
        if self._call is None or self._held is None or not self._call.is_misnamed:
            return ""
        return "".join(self._held[self._object_start :])

    def feed(self, text: str) -> list[Event]:
        """Takes the next text and returns what is decided."""
        for char in text:
            self._step(char)
        return self._log.drain()

    def finish(self, *, ended_by_model: bool) -> list[Event]:
        """Ends the answer; a call that was cut is completed only if the model itself ended the answer."""
        self._reader.current = END
        if ended_by_model or self._call is None:
            next(self._steps, None)
        elif not self._call.is_announced:
            self._reject()
        self._text.finish()
        return self._log.drain()

    def _step(self, char: str) -> None:
        self._reader.current = char
        if self._held is not None:
            self._held.append(char)
            if len(self._held) > _MAX_HELD_CHARS:
                self._steps.throw(NotACall())
                return
        next(self._steps)

    def _read_answer(self) -> Steps:
        yield
        while (char := self._reader.current) != END:
            if self._may_open(char):
                yield from self._attempt(char)
                continue
            if not (self._text.is_after_call and char in _LEFTOVERS):
                self._put(char)
            yield

    def _may_open(self, char: str) -> bool:
        if char == "<":
            return True
        if char == "`":
            return self._text.is_after_call or self._text.starts_line or self._fence is _Fence.NONE
        if char not in {"{", "["}:
            return False
        is_at_start = self._text.starts_line and self._text.indent <= _MAX_INDENT
        return self._text.is_after_call or (is_at_start and self._fence is not _Fence.PLAIN)

    def _attempt(self, char: str) -> Steps:
        self._held = [char]
        self._reader.is_garbled = False
        self._opened_length = 0
        try:
            if (yield from self._read_openers()):
                self._object_start = len(self._held) - 1 if self._held else 0
                self._call = Call(self._call_count, self._names, self._log, self._commit, is_native=self._is_native)
                yield from read_envelope(self._reader, self._call)
        except NotACall:
            self._reject()
        self._held = self._call = None

    def _read_openers(self) -> Generator[None, None, bool]:
        """Reads fences, tags and brackets up to an object; false if they closed what a call had opened."""
        while self._reader.current != "{":
            if self._reader.current == "`":
                is_open = yield from self._read_fence()
            else:
                is_open = yield from self._read_tag()
            if not is_open:
                return False
            yield from self._reader.space()
        return True

    def _read_fence(self) -> Generator[None, None, bool]:
        length = yield from self._count_backticks()
        info = yield from self._read_info(length)
        ends_line = self._reader.current in {"\n", END}
        if self._fence is _Fence.NONE or info.strip() or not ends_line:
            self._opened_length = self._opened_length or length
            return True
        if self._fence is _Fence.CALL:
            self._fence, self._held = _Fence.NONE, None
            return False
        if length >= self._fence_length:
            self._fence = _Fence.NONE
        raise NotACall

    def _count_backticks(self) -> Generator[None, None, int]:
        length = 0
        while self._reader.current == "`":
            length += 1
            yield
        if length < _MIN_FENCE:
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
        return "".join(info)

    def _read_tag(self) -> Generator[None, None, bool]:
        tag = ""
        while self._reader.current != END and tag + self._reader.current in self._tags.beginnings:
            tag += self._reader.current
            if tag in self._tags.closing:
                yield from self._close_tag()
                return False
            yield
            if tag in self._tags.opening:
                self._is_native = self._is_native or (tag in self._tags.native and self._fence is not _Fence.PLAIN)
                return True
        if tag != "[":
            raise NotACall
        return True

    def _close_tag(self) -> Steps:
        if not self._text.is_after_call:
            raise NotACall
        self._is_native = False
        self._held = None
        yield

    def _commit(self) -> None:
        """A call is certain: what was held back for it, and white space before it, is no text."""
        self._held = None
        self._call_count += 1
        self._text.skip_call()
        if self._opened_length:
            self._fence, self._fence_length = _Fence.CALL, self._opened_length

    def _reject(self) -> None:
        """What was held back is text."""
        held = self._held or []
        self._held = None
        starts_line = self._text.starts_line
        if self._opened_length and starts_line and self._fence is not _Fence.PLAIN:
            self._fence, self._fence_length = _Fence.PLAIN, self._opened_length
        for char in held if self._reader.current == END else held[:-1]:
            self._put(char)

    def _put(self, char: str) -> None:
        self._text.put(char)
        self._is_native = self._is_native and self._text.is_after_call
