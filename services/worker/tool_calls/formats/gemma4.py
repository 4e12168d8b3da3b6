"""Gemma 4: `<|tool_call>call:name{key:<|"|>text<|"|>,other:5}<tool_call|>`.

Source: https://ai.google.dev/gemma/docs/core/prompt-formatting-gemma4.
"""

import json
import re
from collections.abc import Generator
from typing import Final

from services.worker.json_stream import encoded
from services.worker.json_strings import END, Steps, Write
from services.worker.tool_calls.call import NotACall
from services.worker.tool_calls.formats.base import CallFormat
from services.worker.tool_calls.forms import Dialect, Reading
from services.worker.tool_calls.named import set_name
from services.worker.tool_calls.shapes import CallShape, JsonBody
from services.worker.tool_calls.tags import Tags

MARKER: Final = "<|tool_call>"
_QUOTE: Final = '<|"|>'
_CLOSE: Final = "<tool_call|>"
_PREFIX: Final = "call:"
_AFTER_VALUE: Final = frozenset(",}]")
_CLOSERS: Final = frozenset({"}", "]", "<", END})
_MAX_NAME_CHARS: Final = 128
_MAX_DEPTH: Final = 64
_HEADER: Final = re.compile(rf"{_PREFIX}\s*([^\s{{]*)\s*")


def read_gemma4_call(reading: Reading) -> Generator[None, None, bool]:
    """Reads a name and an object whose strings stand in marks of their own; false if JSON follows."""
    reader, header = reading.reader, ""
    yield from reader.space()
    if reader.current in {"{", "[", "`"}:
        return False
    while reader.current != "{":
        header += reader.current
        if reader.current == END or len(header) > _MAX_NAME_CHARS:
            raise NotACall
        yield
    match = _HEADER.fullmatch(header)
    set_name(reading, match.group(1) if match else "")
    reading.call.begin_arguments("arguments")
    yield from _object(reading, reading.call.write, 0)
    reading.call.complete()
    return True


def _value(reading: Reading, write: Write, depth: int) -> Steps:
    reader = reading.reader
    if depth > _MAX_DEPTH:
        reader.is_garbled = True
    elif reader.current == "{":
        yield from _object(reading, write, depth)
    elif reader.current == "[":
        yield from _array(reading, write, depth)
    elif reader.current == "<":
        write('"')
        yield from _string(reading, lambda char: write(encoded(char)))
        write('"')
    else:
        yield from reader.value(write, _AFTER_VALUE, depth)


def _object(reading: Reading, write: Write, depth: int) -> Steps:
    reader, separator = reading.reader, ""
    write("{")
    yield
    yield from _gap(reading)
    while reader.current not in {"}", "<", END} and not reader.is_garbled:
        key = yield from reader.key()
        if key is None:
            break
        write(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        separator = ", "
        yield from _value(reading, write, depth + 1)
        yield from _gap(reading)
    yield from _close(reading, "}", write)


def _array(reading: Reading, write: Write, depth: int) -> Steps:
    reader, separator = reading.reader, ""
    write("[")
    yield
    yield from _gap(reading)
    while reader.current not in {"]", "}", ":", "`", END} and not reader.is_garbled:
        write(separator)
        separator = ", "
        yield from _value(reading, write, depth + 1)
        yield from _gap(reading)
    yield from _close(reading, "]", write)


def _close(reading: Reading, bracket: str, write: Write) -> Steps:
    reader = reading.reader
    reader.is_garbled = reader.is_garbled or reader.current not in _CLOSERS
    if reader.is_garbled:
        return
    write(bracket)
    if reader.current == bracket:
        yield


def _gap(reading: Reading) -> Steps:
    while reading.reader.current in {",", " ", "\n", "\t", "\r"}:
        yield


def _string(reading: Reading, put: Write) -> Steps:
    """Reads a string between its marks; one that lacks the first is read as it stands."""
    reader, held, is_open = reading.reader, "", False
    while reader.current != END:
        held += reader.current
        yield
        while held and not _QUOTE.startswith(held):
            put(held[0])
            held = held[1:]
        if held == _QUOTE and is_open:
            return
        if held == _QUOTE:
            held, is_open = "", True
    for char in held if len(held) < 2 else "":
        put(char)


GEMMA4: Final = CallFormat(
    "gemma4",
    Dialect(Tags((MARKER,), forms=(MARKER,), closers=(_CLOSE,)), {MARKER: read_gemma4_call}),
    CallShape(JsonBody(), prefix=MARKER, suffix=_CLOSE),
    frozenset({MARKER, _CLOSE, _QUOTE}),
)
