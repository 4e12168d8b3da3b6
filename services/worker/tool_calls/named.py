"""Calls whose name stands before their JSON arguments: Mistral, DeepSeek, Kimi and gpt-oss."""

import re
from collections.abc import Callable, Generator
from typing import Final

from services.worker.json_stream import EmbeddedJson, JsonReader
from services.worker.json_strings import END, QUOTES, Steps, Write
from services.worker.tool_calls.call import NotACall
from services.worker.tool_calls.forms import Form, Reading

_MAX_HEADER_CHARS: Final = 256
_NAME: Final = re.compile(r"[\w./:-]{1,64}")
_AFTER_TEXT: Final = frozenset("<[`")
_FENCE: Final = "`"
_DONE: Final = object()


def named_form(separator: str, to_name: Callable[[str], str], ends: tuple[str, ...]) -> Form:
    """Makes the reader of a header that ends with a separator and tells the name, and of the arguments behind it.

    `ends` are marks that can't occur in arguments.
    """

    def read(reading: Reading) -> Generator[None, None, bool]:
        header = yield from read_until(reading, separator)
        set_name(reading, to_name(header))
        yield
        yield from read_arguments(reading, ends)
        return True

    return read


def read_until(reading: Reading, separator: str) -> Generator[None, None, str]:
    """Reads up to the last character of a separator; raises `NotACall` if it does not come soon."""
    read = ""
    while not (read + reading.reader.current).endswith(separator):
        read += reading.reader.current
        if reading.reader.current == END or len(read) > _MAX_HEADER_CHARS:
            raise NotACall
        yield
    return read[: len(read) + 1 - len(separator)]


def set_name(reading: Reading, name: str) -> None:
    """Names the call, if it is a name."""
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise NotACall
    reading.call.set_name(name)


def read_arguments(reading: Reading, ends: tuple[str, ...]) -> Steps:
    """Reads a call's arguments, also in a code block or a string; where there are none it takes none."""
    reader, call, rest = reading.reader, reading.call, ""
    yield from reader.space()
    if is_fenced := reader.current == _FENCE:
        while reader.current not in {"{", "\n", "<", END}:
            yield
        yield from reader.space()
    if reader.current == "{" or reader.current in QUOTES:
        call.begin_arguments("arguments")
        rest = yield from _read_up_to(reading, ends)
    call.complete()
    if rest in ends:
        yield
        return
    reading.text(rest)
    if is_fenced:
        yield from reader.space()
        while reader.current == _FENCE:
            yield


def _read_up_to(reading: Reading, ends: tuple[str, ...]) -> Generator[None, None, str]:
    """Reads JSON, which ends at a mark at the latest, so that a bracket missing before it is known to be missing.

    Returns the mark, whose last character is the current one, or what was read beyond the JSON before the current one.
    """
    outer, inner = reading.reader, JsonReader()
    inner.current = outer.current
    steps = _read_json(inner, reading.call.write)
    next(steps)
    held, rest, is_open = "", "", True
    while is_open:
        yield
        held += outer.current
        is_cut = outer.current == END
        if not is_cut and held not in ends and any(end.startswith(held) for end in ends):
            continue
        read = [END] if held in ends else [*held, END] if is_cut else list(held)
        for position, char in enumerate(read):
            inner.current = char
            if next(steps, _DONE) is _DONE:
                is_open = False
                rest = held if held in ends else held[position : None if is_cut else -1]
                break
        held = ""
    outer.is_garbled = inner.is_garbled
    return rest


def _read_json(reader: JsonReader, write: Write) -> Steps:
    if reader.current == "{":
        yield from reader.value(write)
        return
    embedded = EmbeddedJson(write)
    yield from reader.string(embedded.put, _AFTER_TEXT)
    embedded.finish()
