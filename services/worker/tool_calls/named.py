"""Calls whose name stands before their JSON arguments: Mistral, DeepSeek, Kimi and gpt-oss."""

import re
from collections.abc import Callable, Generator
from typing import Final

from services.worker.json_stream import EmbeddedJson
from services.worker.json_strings import END, QUOTES, Steps
from services.worker.tool_calls.call import NotACall
from services.worker.tool_calls.forms import Form, Reading

_MAX_HEADER_CHARS: Final = 256
_NAME: Final = re.compile(r"[\w./:-]{1,64}")
_AFTER_TEXT: Final = frozenset("<[`")
_FENCE: Final = "`"


def named_form(separator: str, to_name: Callable[[str], str]) -> Form:
    """Makes the reader of a header that ends with a separator and tells the name, and of the arguments behind it."""

    def read(reading: Reading) -> Generator[None, None, bool]:
        header = yield from read_until(reading, separator)
        set_name(reading, to_name(header))
        yield
        yield from read_arguments(reading)
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


def read_arguments(reading: Reading) -> Steps:
    """Reads a call's arguments, also in a code block or a string; where there are none it takes none."""
    reader, call = reading.reader, reading.call
    yield from reader.space()
    if is_fenced := reader.current == _FENCE:
        while reader.current not in {"{", "\n", "<", END}:
            yield
        yield from reader.space()
    if reader.current == "{":
        call.begin_arguments("arguments")
        yield from reader.value(call.write)
    elif reader.current in QUOTES:
        call.begin_arguments("arguments")
        embedded = EmbeddedJson(call.write)
        yield from reader.string(embedded.put, _AFTER_TEXT)
        embedded.finish()
    call.complete()
    if is_fenced:
        yield from reader.space()
        while reader.current == _FENCE:
            yield
