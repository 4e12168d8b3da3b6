"""JSON as models write it, read one character at a time and rewritten as valid JSON.

The reader is a coroutine: a bare `yield` asks for the next character, which its driver puts into `current` (`END`
after the last one). So a result can't depend on how the text was cut into pieces. It repairs what is certain: raw
control characters and unescaped quotes inside strings, single and triple quotes, Python's literals, bare words, missing
or extra commas, missing closing brackets.
"""

import json
import re
from collections.abc import Callable, Generator
from typing import Final

Steps = Generator[None, None, None]
Write = Callable[[str], None]

END: Final = ""
SPACE: Final = frozenset(" \t\r\n")
QUOTES: Final = frozenset("\"'")
AFTER_KEY: Final = frozenset(":,}]")
AFTER_MEMBER: Final = frozenset(",}")
AFTER_ELEMENT: Final = frozenset(",]")
# A closing fence or tag on a new line: the brackets before it were forgotten.
_BREAKS: Final = frozenset("`<")
_WORD_ENDS: Final = frozenset(',:}]\n"`<') | {END}
_MAX_DEPTH: Final = 64
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_LITERALS: Final = {
    "true": "true", "false": "false", "null": "null",
    "True": "true", "False": "false", "None": "null",
    "undefined": "null", "NaN": "null",
}  # fmt: skip
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "\n"}
_UNCHANGED: Final = frozenset("\"'`/\\")
_REPLACEMENT: Final = "\ufffd"


class JsonReader:
    """Reads JSON values from `current` and the characters that follow it."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current = END

    def space(self) -> Steps:
        """Skips white space."""
        while self.current in SPACE:
            yield

    def value(self, write: Write, ends: frozenset[str] = frozenset(), depth: int = 0) -> Steps:
        """Reads a value and writes it as valid JSON; `ends` are the characters that may follow it."""
        if depth > _MAX_DEPTH:
            write("null")
            if self.current != END:
                yield
        elif self.current == "{":
            yield from self._object(write, depth)
        elif self.current == "[":
            yield from self._array(write, depth)
        elif self.current in QUOTES:
            write('"')
            yield from self.string(lambda char: write(_encoded(char)), ends)
            write('"')
        else:
            write((yield from self._word()))

    def string(self, put: Write, ends: frozenset[str]) -> Generator[None, None, bool]:
        """Reads a string and puts its decoded characters; returns whether it was closed.

        A quote closes it only if one of `ends` follows, as it always does in valid JSON: others are part of the text.
        """
        quote = self.current
        yield
        if self.current == quote:
            yield
            if self.current == quote:
                yield
                return (yield from self._triple_quoted(quote, put))
            if (yield from self._is_closed(quote, put, ends)):
                return True
        while self.current != END:
            if self.current == quote:
                yield
                if (yield from self._is_closed(quote, put, ends)):
                    return True
            elif self.current == "\\":
                yield
                yield from self._escape(put)
            else:
                put(self.current)
                yield
        return False

    def key(self) -> Generator[None, None, str | None]:
        """Reads a member's key and its colon; None if there is none."""
        chars: list[str] = []
        if self.current in QUOTES:
            yield from self.string(chars.append, AFTER_KEY)
        else:
            while self.current.isalnum() or self.current in {"_", "-", "$", "."}:
                chars.append(self.current)
                yield
        yield from self.space()
        if self.current != ":":
            return None
        yield
        yield from self.space()
        return None if self.current == END else "".join(chars)

    def _object(self, write: Write, depth: int) -> Steps:
        write("{")
        yield
        separator = ""
        while (yield from self._has_item(is_first=not separator)):
            key = yield from self.key()
            if key is None:
                break
            write(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
            separator = ", "
            yield from self.value(write, AFTER_MEMBER, depth + 1)
        write("}")
        if self.current == "}":
            yield

    def _array(self, write: Write, depth: int) -> Steps:
        write("[")
        yield
        separator = ""
        while (yield from self._has_item(is_first=not separator)):
            if separator:
                write(separator)
            separator = ", "
            yield from self.value(write, AFTER_ELEMENT, depth + 1)
        write("]")
        if self.current == "]":
            yield

    def _has_item(self, *, is_first: bool) -> Generator[None, None, bool]:
        """Skips commas; says whether a member or element follows. Only a quote or bracket may follow without comma."""
        yield from self.space()
        is_separated = is_first
        while self.current == ",":
            is_separated = True
            yield
            yield from self.space()
        if is_separated:
            return self.current not in _WORD_ENDS or self.current == '"'
        return self.current in QUOTES or self.current in {"{", "["}

    def _word(self) -> Generator[None, None, str]:
        chars: list[str] = []
        while self.current not in _WORD_ENDS or (self.current == ":" and chars):
            chars.append(self.current)
            yield
        word = "".join(chars).strip()
        if not word:
            return "null"
        if self.current == END:
            word = next((literal for literal in _LITERALS if literal.startswith(word)), word)
        if word in _LITERALS:
            return _LITERALS[word]
        return word if _NUMBER.fullmatch(word) else json.dumps(word, ensure_ascii=False)

    def _is_closed(self, quote: str, put: Write, ends: frozenset[str]) -> Generator[None, None, bool]:
        space: list[str] = []
        while self.current in SPACE:
            space.append(self.current)
            yield
        if self.current == END or self.current in ends or (self.current in _BREAKS and "\n" in space):
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
            if self.current not in "0123456789abcdefABCDEF" or self.current == END:
                return None
            digits += self.current
            yield
        return int(digits, 16)


class EmbeddedJson:
    """JSON written inside a JSON string: takes the string's characters, writes the object in it or else the string."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._reader = JsonReader()
        self._steps: Steps | None = None
        self._text: list[str] = []

    def put(self, char: str) -> None:
        """Takes the next character."""
        if self._steps is not None:
            self._advance(char)
        elif char == "{" and not self._text:
            self._reader.current = char
            self._steps = self._reader.value(self._write)
            next(self._steps)
        elif char not in SPACE or self._text:
            self._text.append(char)

    def finish(self) -> None:
        """Ends the string."""
        if self._steps is not None:
            self._advance(END)
        else:
            self._write(json.dumps("".join(self._text), ensure_ascii=False) if self._text else "{}")

    def _advance(self, char: str) -> None:
        self._reader.current = char
        next(self._steps or iter(()), None)


def _encoded(char: str) -> str:
    if char == '"' or char == "\\" or char < " ":
        return json.dumps(char)[1:-1]
    return char


def _character(code: int | None) -> str:
    return _REPLACEMENT if code is None or 0xD800 <= code < 0xE000 else chr(code)
