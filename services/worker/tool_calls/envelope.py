"""The JSON object around a call's name and arguments, in the shapes that models give it."""

from typing import Final

from services.worker.json_stream import AFTER_MEMBER, EmbeddedJson, JsonReader
from services.worker.json_strings import END, QUOTES, Steps
from services.worker.tool_calls.call import Call, NotACall

_NAME_KEYS: Final = frozenset({"name", "tool", "tool_name", "function", "function_name"})
_ARGUMENTS_KEYS: Final = frozenset({"arguments", "parameters", "args", "params", "input", "tool_input"})
_NESTING_KEYS: Final = frozenset({"function", "tool", "tool_call", "function_call"})
_IDLE_KEYS: Final = frozenset({"type", "id", "call_id", "tool_call_id", "index"})
_EXPLAINING_KEYS: Final = frozenset({"thought", "thoughts", "reasoning", "reason", "explanation", "description"})
_MAX_NESTING: Final = 2
_MAX_NAME_CHARS: Final = 128


def read_envelope(reader: JsonReader, call: Call, nesting: int = 0) -> Steps:
    """Reads one object into a call; raises `NotACall` as soon as it can't be one."""
    yield
    yield from reader.space()
    while reader.current not in {"}", END}:
        if reader.current == ",":
            yield
            yield from reader.space()
            continue
        key = yield from reader.key()
        if key is None:
            break
        yield from _read_member(reader, call, key, nesting)
        yield from reader.space()
        if reader.current != "," and reader.current not in QUOTES:
            break
    if nesting == 0:
        call.complete()
    if reader.current == "}":
        yield


def _read_member(reader: JsonReader, call: Call, key: str, nesting: int) -> Steps:
    if key in _NESTING_KEYS and reader.current == "{" and nesting < _MAX_NESTING:
        yield from read_envelope(reader, call, nesting + 1)
    elif key in _NAME_KEYS and reader.current in QUOTES:
        yield from _read_name(reader, call)
    elif key in _ARGUMENTS_KEYS and not call.has_arguments:
        yield from _read_arguments(reader, call, key)
    elif key in _IDLE_KEYS or (call.is_announced and call.has_arguments):
        yield from reader.value(_ignore, AFTER_MEMBER)
    else:
        yield from _read_other(reader, call, key)


def _read_name(reader: JsonReader, call: Call) -> Steps:
    chars: list[str] = []

    def put(char: str) -> None:
        chars.append(char)
        if len(chars) > _MAX_NAME_CHARS and not call.is_announced:
            raise NotACall

    is_closed = yield from reader.string(put, AFTER_MEMBER)
    if not is_closed and not call.is_announced:
        raise NotACall
    call.set_name("".join(chars))


def _read_arguments(reader: JsonReader, call: Call, key: str) -> Steps:
    call.begin_arguments(key)
    if reader.current in QUOTES:
        embedded = EmbeddedJson(call.write)
        yield from reader.string(embedded.put, AFTER_MEMBER)
        embedded.finish()
    elif reader.current in {"{", "["}:
        yield from reader.value(call.write, AFTER_MEMBER)
    else:
        parts: list[str] = []
        yield from reader.value(parts.append, AFTER_MEMBER)
        value = "".join(parts)
        call.write("{}" if value == "null" else value)


def _read_other(reader: JsonReader, call: Call, key: str) -> Steps:
    if call.is_native:
        parts: list[str] = []
        yield from reader.value(parts.append, AFTER_MEMBER)
        call.add_member(key, "".join(parts))
        return
    is_scalar = reader.current not in {"{", "["}
    if not call.may_skip(is_scalar=is_scalar, is_explanation=key in _EXPLAINING_KEYS):
        raise NotACall
    yield from reader.value(_ignore, AFTER_MEMBER)


def _ignore(_: str) -> None:
    pass
