"""Values of parameters that a model writes as plain text, turned into the JSON that the tool's schema asks for."""

import json
from typing import Final, NoReturn, Protocol

from services.worker.json_stream import LITERALS, JsonReader, encoded
from services.worker.json_strings import END, Write

_NULL: Final = "null"
_KEEPALIVE_CHARS: Final = 64
_BRACKETS: Final = ("{", "[")


class ValueWriter(Protocol):
    """Takes a value's characters and writes it as JSON."""

    def put(self, char: str) -> None:
        """Takes the next character."""
        ...

    def finish(self) -> None:
        """Ends the value."""
        ...


def value_writer(types: frozenset[str], write: Write) -> ValueWriter:
    """Makes the writer of a value that may have these JSON types; none means any."""
    if "string" in types:
        return _StringWriter(write, is_nullable=_NULL in types)
    return _JsonWriter(write)


class _StringWriter:
    """Writes text as it comes; only what may still become `null` waits."""

    def __init__(self, write: Write, *, is_nullable: bool) -> None:
        self._write = write
        self._is_nullable = is_nullable
        self._held = ""
        self._is_open = False

    def put(self, char: str) -> None:
        self._held += char
        if not (self._is_nullable and _NULL.startswith(self._held)):
            self._release()

    def finish(self) -> None:
        if self._is_nullable and self._held == _NULL:
            self._write(_NULL)
            return
        self._release()
        self._write('"')

    def _release(self) -> None:
        if not self._is_open:
            self._write('"')
        self._is_open, self._is_nullable = True, False
        for char in self._held:
            self._write(encoded(char))
        self._held = ""


class _JsonWriter:
    """Collects a value, since only its end tells whether it is JSON or must stay text.

    Meanwhile a space now and then, which means nothing in JSON, shows that the call goes on.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._chars: list[str] = []

    def put(self, char: str) -> None:
        self._chars.append(char)
        if len(self._chars) % _KEEPALIVE_CHARS == 0:
            self._write(" ")

    def finish(self) -> None:
        self._write(to_json("".join(self._chars)))


def to_json(text: str) -> str:
    """Reads text as JSON or as Python's literals; what is neither becomes a string."""
    stripped = text.strip()
    if _is_json(stripped):
        return stripped
    if stripped in LITERALS:
        return LITERALS[stripped]
    if stripped.startswith(_BRACKETS) and (repaired := _repaired(stripped)):
        return repaired
    return json.dumps(text, ensure_ascii=False)


def _repaired(text: str) -> str:
    reader, written = JsonReader(), list[str]()
    reader.current = text[0]
    steps = reader.value(written.append)
    for char in [*text, END]:
        reader.current = char
        try:
            next(steps)
        except StopIteration:
            is_whole = char == END
            break
    else:
        is_whole = False
    repaired = "".join(written)
    return repaired if is_whole and not reader.is_garbled and _is_json(repaired) else ""


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
