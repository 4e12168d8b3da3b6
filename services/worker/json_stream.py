"""JSON as models write it, read one character at a time and rewritten as valid JSON.

It repairs what is certain: raw control characters and unescaped quotes inside strings, single and triple quotes,
Python's literals, bare words, missing or extra commas, missing closing brackets. Where the meaning is lost it says so
(`is_garbled`) and leaves what it wrote unclosed, so that nobody acts on half of a value.
"""

import json
import re
from collections.abc import Generator
from typing import Final

from services.worker.json_strings import BREAKS, END, QUOTES, SPACE, Steps, StringReader, Write

AFTER_MEMBER: Final = frozenset(",}")
AFTER_ELEMENT: Final = frozenset(",]")
_CLOSERS: Final = frozenset("}]") | BREAKS | {END}
_WORD_ENDS: Final = frozenset(',:}]\n"`<') | {END}
_MAX_DEPTH: Final = 64
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
LITERALS: Final = {
    "true": "true", "false": "false", "null": "null",
    "True": "true", "False": "false", "None": "null",
    "undefined": "null", "NaN": "null",
}  # fmt: skip


class JsonReader(StringReader):
    """Reads JSON values from `current` and the characters that follow it."""

    def value(self, write: Write, ends: frozenset[str] = frozenset(), depth: int = 0) -> Steps:
        """Reads a value and writes it as valid JSON; `ends` are the characters that may follow it."""
        if depth > _MAX_DEPTH:
            self.is_garbled = True
        elif self.current == "{":
            yield from self._object(write, depth)
        elif self.current == "[":
            yield from self._array(write, depth)
        elif self.current in QUOTES:
            write('"')
            yield from self.string(lambda char: write(encoded(char)), ends)
            write('"')
        else:
            write((yield from self.word(ends)))

    def key(self) -> Generator[None, None, str | None]:
        """Reads a member's key and its colon; None if there is none."""
        chars: list[str] = []
        if self.current in QUOTES:
            yield from self.string(chars.append, None)
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
        while not self.is_garbled and (yield from self._has_item(is_first=not separator)):
            key = yield from self.key()
            if key is None:
                self.is_garbled = self.is_garbled or self.current != END
                break
            write(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
            separator = ", "
            yield from self.value(write, AFTER_MEMBER, depth + 1)
        yield from self._close("}", write)

    def _array(self, write: Write, depth: int) -> Steps:
        write("[")
        yield
        separator = ""
        while not self.is_garbled and (yield from self._has_item(is_first=not separator)):
            if separator:
                write(separator)
            separator = ", "
            yield from self.value(write, AFTER_ELEMENT, depth + 1)
        yield from self._close("]", write)

    def _close(self, bracket: str, write: Write) -> Steps:
        """Writes a closing bracket, unless what stands in its place leaves open what was meant."""
        self.is_garbled = self.is_garbled or self.current not in _CLOSERS
        if self.is_garbled:
            return
        write(bracket)
        if self.current == bracket:
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

    def word(self, ends: frozenset[str], begun: str = "") -> Generator[None, None, str]:
        """Reads a number, literal or bare word, of which `begun` was read already, and returns it as JSON."""
        chars = list(begun)
        while self.current not in _WORD_ENDS | ends or (self.current == ":" and chars):
            chars.append(self.current)
            yield
        word = "".join(chars).strip()
        if not word:
            return "null"
        if self.current == END:
            word = next((literal for literal in LITERALS if literal.startswith(word)), word)
        if word in LITERALS:
            return LITERALS[word]
        return word if _NUMBER.fullmatch(word) else json.dumps(word, ensure_ascii=False)


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


def encoded(char: str) -> str:
    """Writes one character of a string as JSON does."""
    if char == '"' or char == "\\" or char < " ":
        return json.dumps(char)[1:-1]
    return char
