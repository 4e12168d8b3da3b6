"""Mistral: `[TOOL_CALLS][{"name": …, "arguments": …}]`, in newer models `[TOOL_CALLS]name[ARGS]{…}` once a call.

Some models of 2025 write `[CALL_ID]id` behind the name. Their templates refuse ids that are not nine letters or digits.
Source: https://docs.mistral.ai/cookbooks/concept-deep-dive-tokenization-tool_calling and
https://huggingface.co/mistralai/Ministral-3-8B-Instruct-2512/blob/main/chat_template.jinja.
"""

import hashlib
from collections.abc import Generator
from typing import Final

from services.worker.json_strings import END, Steps
from services.worker.tool_calls.call import NotACall
from services.worker.tool_calls.formats.base import CallFormat
from services.worker.tool_calls.forms import Dialect, Reading
from services.worker.tool_calls.named import read_arguments, set_name
from services.worker.tool_calls.shapes import CallShape, JsonBody, NamedBody
from services.worker.tool_calls.tags import Tags

MARKER: Final = "[TOOL_CALLS]"
_ARGUMENTS: Final = "[ARGS]"
_CALL_ID: Final = "[CALL_ID]"
_ID_LENGTH: Final = 9
_MAX_NAME_CHARS: Final = 128


def read_mistral_call(reading: Reading) -> Generator[None, None, bool]:
    """Reads a name, perhaps an id, and arguments; false if a list of objects follows."""
    reader, name = reading.reader, ""
    yield from reader.space()
    if reader.current in {"{", "[", "`", "<"}:
        return False
    while reader.current not in {"[", "{"}:
        name += reader.current
        if reader.current == END or len(name) > _MAX_NAME_CHARS:
            raise NotACall
        yield
    if reader.current == "[":
        yield from _read_marks(reading)
    set_name(reading, name)
    yield from read_arguments(reading, ())
    return True


def _read_marks(reading: Reading) -> Steps:
    """Reads the mark of the arguments, and of an id and the id before it."""
    read = ""
    while read != _ARGUMENTS:
        read += reading.reader.current
        if reading.reader.current == END or not (_ARGUMENTS.startswith(read) or _CALL_ID.startswith(read)):
            raise NotACall
        yield
        if read == _CALL_ID:
            read = ""
            while reading.reader.current.isalnum():
                yield


def to_mistral_id(given: str, _name: str, _ordinal: int) -> str:
    """Shortens an id to what Mistral's templates take."""
    if len(given) == _ID_LENGTH and given.isascii() and given.isalnum():
        return given
    return hashlib.sha256(given.encode()).hexdigest()[:_ID_LENGTH]


_DIALECT: Final = Dialect(Tags((MARKER,), forms=(MARKER,)), {MARKER: read_mistral_call})
_SPECIAL: Final = frozenset({MARKER, _ARGUMENTS, _CALL_ID})
MISTRAL: Final = CallFormat(
    "mistral",
    _DIALECT,
    CallShape(JsonBody(), begin=f"{MARKER}[", end="]", separator=", "),
    _SPECIAL,
    to_mistral_id,
)
MISTRAL_NAMED: Final = CallFormat(
    "mistral-named",
    Dialect(_DIALECT.tags, _DIALECT.forms, (MARKER,)),
    CallShape(NamedBody(f'("{_CALL_ID}" [a-zA-Z0-9]+)? "{_ARGUMENTS}"'), prefix=MARKER),
    _SPECIAL,
    to_mistral_id,
)
