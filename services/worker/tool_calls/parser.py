"""Finds the calls of one answer: in a format's own notation, in tags, in a code block, or bare at a line's start."""

import re
from collections.abc import Generator
from typing import Final

from services.worker.json_stream import JsonReader
from services.worker.json_strings import END, Steps
from services.worker.tool_calls.call import Call, NotACall
from services.worker.tool_calls.envelope import read_envelope
from services.worker.tool_calls.events import Event, EventLog
from services.worker.tool_calls.fences import Fences
from services.worker.tool_calls.forms import Dialect
from services.worker.tool_calls.names import ToolNames
from services.worker.tool_calls.pythonic import TOOL_CODE, read_call_list, read_tool_code
from services.worker.tool_calls.text import AnswerText

_OPENING: Final = re.compile(r'\{ ?"name": ?"[^"\\\n]*')
_NATIVE_OPENING: Final = re.compile(r'\{\s*"name"\s*:\s*"[^"\\\n]*')
_MAX_OPENING_CHARS: Final = 128
_MAX_HELD_CHARS: Final = 65_536
_MAX_INDENT: Final = 3
_LEFTOVERS: Final = frozenset("}],;")


class AnswerParser:
    """Reads an answer character by character; what may be a call is held back until that is decided."""

    def __init__(self, names: ToolNames, dialect: Dialect) -> None:
        self.names = names
        self.reader = JsonReader()
        self._dialect = dialect
        self._tags = dialect.tags
        self._log = EventLog()
        self._call: Call | None = None
        self._call_count = 0
        self._held: list[str] | None = None
        self._text = AnswerText(self._log)
        self._is_native = False
        self._is_guarded = False
        self._fences = Fences(self.reader)
        self._call_start = 0
        self._steps = self._read_answer()
        next(self._steps)

    @property
    def is_in_call(self) -> bool:
        """Whether what comes next belongs to what may be a call."""
        return self._call is not None

    @property
    def opening(self) -> str:
        """A call from its brace or marker on, while its name is all that comes next; empty anywhere else.

        Outside a native tag only an object on one line counts: files such as package.json begin with a name, too.
        """
        if self._call is None or self._held is None or len(self._held) - self._call_start > _MAX_OPENING_CHARS:
            return ""
        text = "".join(self._held[self._call_start :])
        if self._is_guarded:
            return text
        pattern = _NATIVE_OPENING if self._call.is_native else _OPENING
        return text if pattern.fullmatch(text) else ""

    @property
    def misnamed(self) -> str:
        """The object of a call from its brace on, if its name was not offered but arguments follow; else empty."""
        if self._call is None or self._held is None or not self._call.is_misnamed:
            return ""
        return "".join(self._held[self._call_start :])

    def feed(self, text: str) -> list[Event]:
        """Takes the next text and returns what is decided."""
        for char in text:
            self._step(char)
        return self._log.drain()

    def finish(self, *, ended_by_model: bool) -> list[Event]:
        """Ends the answer; a call that was cut is completed only if the model itself ended the answer."""
        self.reader.current = END
        if ended_by_model or self._call is None:
            next(self._steps, None)
        elif not self._call.is_announced:
            self._reject()
        self._text.finish()
        return self._log.drain()

    @property
    def call(self) -> Call:
        """The call being read."""
        assert self._call is not None
        return self._call

    @property
    def is_wrapped(self) -> bool:
        """Whether a native tag stands around it, behind which nothing but a call follows."""
        return self._is_native

    def next_call(self, *, is_native: bool) -> Call:
        """Begins a call; what is read from here on is held back until it is certain."""
        if self._held is None:
            self._held = [self.reader.current]
            self._fences.forget_opened()
        self._call_start = len(self._held) - 1
        self._is_guarded = self.reader.is_garbled = False
        self._call = Call(self._call_count, self.names, self._log, self._commit, is_native=is_native)
        return self._call

    def text(self, text: str) -> None:
        """Delivers what was read behind a call and is no part of it."""
        for char in text:
            self._put(char)

    def _step(self, char: str) -> None:
        self.reader.current = char
        if self._held is not None:
            self._held.append(char)
            if len(self._held) > _MAX_HELD_CHARS:
                self._steps.throw(NotACall())
                return
        next(self._steps)

    def _read_answer(self) -> Steps:
        yield
        while (char := self.reader.current) != END:
            if self._may_open(char):
                yield from self._attempt(char)
                continue
            if not (self._text.is_after_call and char in _LEFTOVERS):
                self._put(char)
            yield

    def _may_open(self, char: str) -> bool:
        if char in self._tags.first_letters and char != "[":
            return True
        if char == "`":
            return self._text.is_after_call or self._text.starts_line or not self._fences.is_in_block
        return char == "[" or (char == "{" and self._may_open_bare)

    @property
    def _may_open_bare(self) -> bool:
        is_at_start = self._text.starts_line and self._text.indent <= _MAX_INDENT
        return self._text.is_after_call or (is_at_start and not self._fences.is_in_text)

    def _attempt(self, char: str) -> Steps:
        self._held = [char]
        self.reader.is_garbled = False
        self._fences.forget_opened()
        try:
            if (yield from self._read_openers()):
                call = self.next_call(is_native=self._is_native)
                yield from read_envelope(self.reader, call)
        except NotACall:
            self._reject()
        self._held = self._call = None

    def _read_openers(self) -> Generator[None, None, bool]:
        """Reads fences, tags and brackets up to an object; false if they led elsewhere."""
        while self.reader.current != "{":
            if self.reader.current == "`":
                is_open = yield from self._read_fence()
            else:
                is_open = yield from self._read_tag()
            if not is_open:
                return False
            yield from self.reader.space()
        return True

    def _read_fence(self) -> Generator[None, None, bool]:
        info = yield from self._fences.read()
        if info is None:
            self._held = None
            return False
        return not (info == TOOL_CODE and (yield from read_tool_code(self)))

    def _read_tag(self) -> Generator[None, None, bool]:
        is_bare = self._may_open_bare or len(self._held or ()) > 1
        tag = ""
        while self.reader.current != END and tag + self.reader.current in self._tags.beginnings:
            tag += self.reader.current
            if tag in self._tags.closing:
                yield from self._close_tag()
                return False
            if tag in self._tags.forms and not self._fences.is_in_text:
                if (yield from self._read_form(tag)):
                    return False
            else:
                yield
            if tag in self._tags.opening:
                self._is_native = self._is_native or (tag in self._tags.native and not self._fences.is_in_text)
                return True
        if tag[:1] != "[" or not is_bare:
            raise NotACall
        if tag != "[" or self.reader.current.isidentifier():
            return not (yield from read_call_list(self, tag[1:]))
        return True

    def _read_form(self, marker: str) -> Generator[None, None, bool]:
        self.next_call(is_native=True)
        self._call_start -= len(marker) - 1
        self._is_guarded = marker in self._dialect.guarded
        yield
        return (yield from self._dialect.forms[marker](self))

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
        self._fences.commit()

    def _reject(self) -> None:
        """What was held back is text."""
        held = self._held or []
        self._held = None
        self._fences.reject(starts_line=self._text.starts_line)
        for char in held if self.reader.current == END else held[:-1]:
            self._put(char)

    def _put(self, char: str) -> None:
        self._text.put(char)
        self._is_native = self._is_native and self._text.is_after_call
