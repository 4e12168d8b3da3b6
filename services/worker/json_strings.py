"""Strings of JSON as models write them, read one character at a time.

A reader is a coroutine: a bare `yield` asks for the next character, which its driver puts into `current` (`END` after
the last one). So a result can't depend on how the text was cut into pieces.
"""

from collections.abc import Callable, Generator
from typing import Final

Steps = Generator[None, None, None]
Write = Callable[[str], None]

END: Final = ""
SPACE: Final = frozenset(" \t\r\n")
QUOTES: Final = frozenset("\"'")
# A closing fence or tag on a new line: what should close the JSON before it was forgotten.
BREAKS: Final = frozenset("`<")
_HEX_DIGITS: Final = frozenset("0123456789abcdefABCDEF")
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "\n"}
_UNCHANGED: Final = frozenset("\"'`/\\")
_REPLACEMENT: Final = "\ufffd"


class StringReader:
    """Reads strings; `is_garbled` says that the meaning of what was read is lost."""

    __slots__ = ("current", "is_garbled")

    def __init__(self) -> None:
        self.current = END
        self.is_garbled = False

    def space(self) -> Steps:
        """Skips white space."""
        while self.current in SPACE:
            yield

    def string(self, put: Write, ends: frozenset[str] | None) -> Generator[None, None, bool]:
        """Reads a string and puts its decoded characters; returns whether it was closed.

        A quote closes it only if one of `ends` follows, as it always does in valid JSON: others are part of the text.
        Without `ends` any quote closes it.
        """
        quote = self.current
        has_inner_quote = False
        yield
        if self.current == quote:
            yield
            if self.current == quote:
                yield
                return (yield from self._triple_quoted(quote, put))
            if (yield from self._is_closed(quote, put, ends)):
                return True
            has_inner_quote = True
        while self.current != END:
            if self.current == quote:
                yield
                if (yield from self._is_closed(quote, put, ends)):
                    return True
                has_inner_quote = True
            elif self.current == "\\":
                yield
                yield from self._escape(put)
            else:
                put(self.current)
                yield
        self.is_garbled = self.is_garbled or has_inner_quote
        return False

    def _is_closed(self, quote: str, put: Write, ends: frozenset[str] | None) -> Generator[None, None, bool]:
        if ends is None:
            return True
        space: list[str] = []
        while self.current in SPACE:
            space.append(self.current)
            yield
        if self.current == END or self.current in ends or (self.current in BREAKS and "\n" in space):
            return True
        put(quote)
        for char in space:
            put(char)
        return False

    def _triple_quoted(self, quote: str, put: Write) -> Generator[None, None, bool]:
        run = 0
        while self.current != END and run < 3:
            char = self.current
            if char == quote:
                run += 1
                yield
                continue
            for _ in range(run):
                put(quote)
            run = 0
            yield
            if char == "\\":
                yield from self._escape(put)
            else:
                put(char)
        return run == 3

    def _escape(self, put: Write) -> Steps:
        char = self.current
        if char == END:
            return
        yield
        if char == "u":
            yield from self._unicode_escape(put)
        elif char in _UNCHANGED:
            put(char)
        elif char in _ESCAPED:
            put(_ESCAPED[char])
        else:
            put("\\")
            put(char)

    def _unicode_escape(self, put: Write) -> Steps:
        code = yield from self._hex_code()
        if code is None or not 0xD800 <= code < 0xDC00:
            put(_character(code))
            return
        if self.current != "\\":
            put(_REPLACEMENT)
            return
        yield
        if self.current != "u":
            put(_REPLACEMENT)
            yield from self._escape(put)
            return
        yield
        low = yield from self._hex_code()
        if low is not None and 0xDC00 <= low < 0xE000:
            put(chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)))
        else:
            put(_REPLACEMENT)
            put(_character(low))

    def _hex_code(self) -> Generator[None, None, int | None]:
        digits = ""
        while len(digits) < 4:
            if self.current not in _HEX_DIGITS:
                return None
            digits += self.current
            yield
        return int(digits, 16)


def _character(code: int | None) -> str:
    return _REPLACEMENT if code is None or 0xD800 <= code < 0xE000 else chr(code)
