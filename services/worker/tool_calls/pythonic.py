"""Calls written as in Python: `[read(path="a"), list()]`, or a code block called `tool_code`.

Llama 3.2 and 4 (https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_2/) and Gemma
(https://ai.google.dev/gemma/docs/capabilities/function-calling) are prompted to write them.
"""

import json
from collections.abc import Generator
from typing import Final

from services.worker.json_strings import END, QUOTES, Steps
from services.worker.tool_calls.call import Call, NotACall
from services.worker.tool_calls.forms import Reading

TOOL_CODE: Final = "tool_code"
_AFTER_ARGUMENT: Final = frozenset(",)")
_CONTAINERS: Final = QUOTES | {"{", "["}
_MAX_NAME_CHARS: Final = 128


def read_call_list(reading: Reading, begun: str) -> Generator[None, None, bool]:
    """Reads calls in brackets behind the opening one; `begun` is what was read of the first name already."""
    yield from _read_calls(reading, begun, is_native=reading.is_wrapped)
    return True


def read_tool_code(reading: Reading) -> Generator[None, None, bool]:
    """Reads calls in a code block behind its first line; false if JSON follows."""
    yield from reading.reader.space()
    if reading.reader.current in {"{", "<"}:
        return False
    if reading.reader.current == "[":
        yield
    yield from _read_calls(reading, "", is_native=True)
    return True


def read_python_tag(reading: Reading) -> Generator[None, None, bool]:
    """Reads calls behind Llama's `<|python_tag|>`; false if JSON follows."""
    yield from reading.reader.space()
    if reading.reader.current in {"{", "`", "<"}:
        return False
    if reading.reader.current == "[":
        yield
        yield from reading.reader.space()
        if reading.reader.current == "{":
            return False
    yield from _read_calls(reading, "", is_native=True)
    return True


def _read_calls(reading: Reading, begun: str, *, is_native: bool) -> Steps:
    reader = reading.reader
    while True:
        call = reading.next_call(is_native=False)
        yield from _read_call(reading, call, begun, is_native=is_native)
        begun = ""
        yield from reader.space()
        while reader.current in {",", ";"}:
            yield
            yield from reader.space()
        if not reader.current.isidentifier():
            break
    if reader.current == "]":
        yield


def _read_call(reading: Reading, call: Call, begun: str, *, is_native: bool) -> Steps:
    """Reads one call; a name that was not offered counts only in a native wrapper, once arguments follow."""
    reader = reading.reader
    written = yield from _read_name(reading, begun)
    is_printed = written == "print" and is_native and not reading.names.resolve(written).is_offered
    if is_printed:
        written = yield from _read_name(reading, "")
    resolved = reading.names.resolve(written.removesuffix(".call"))
    if not (resolved.is_offered or is_native):
        raise NotACall
    call.is_native = is_native and resolved.is_offered
    call.set_name(resolved.name)
    call.begin_arguments("args")
    yield from _read_arguments(reading, call, resolved.name, is_native=is_native)
    call.complete()
    for _ in range(1 + is_printed):
        if reader.current == ")":
            yield
            yield from reader.space()


def _read_name(reading: Reading, begun: str) -> Generator[None, None, str]:
    """Reads a dotted name and the parenthesis behind it."""
    reader, name = reading.reader, begun
    while reader.current.isalnum() or reader.current in {"_", ".", "-"}:
        name += reader.current
        if len(name) > _MAX_NAME_CHARS:
            raise NotACall
        yield
    if reader.current != "(" or not name:
        raise NotACall
    yield
    yield from reader.space()
    return name


def _read_arguments(reading: Reading, call: Call, name: str, *, is_native: bool) -> Steps:
    reader, separator, position = reading.reader, "", 0
    call.write("{")
    while reader.current not in {")", END}:
        key = "" if reader.current in QUOTES else (yield from _read_keyword(reading))
        begun = "" if key.endswith("=") else key
        if not key.endswith("="):
            key = reading.names.parameters(name).at(position)
            if not key or not is_native:
                _refuse(reading, f"{separator}{begun}")
                break
        call.is_native = is_native
        call.write(f"{separator}{json.dumps(key.rstrip('='), ensure_ascii=False)}: ")
        separator, position = ", ", position + 1
        if begun or reader.current not in _CONTAINERS:
            word = yield from reader.word(_AFTER_ARGUMENT, begun)
            if "(" in word:  # an expression, which nobody here can compute
                _refuse(reading, word)
                break
            call.write(word)
        else:
            yield from reader.value(call.write, _AFTER_ARGUMENT)
        yield from reader.space()
        if reader.current != ",":
            break
        yield
        yield from reader.space()
    if reader.current not in {")", "]", "\n", "`", "<", END}:
        _refuse(reading, "")
    call.is_native = is_native
    if not reader.is_garbled:
        call.write("}")


def _refuse(reading: Reading, written: str) -> None:
    """What follows is no argument: then this is no call, or, if it is known as one already, a broken one."""
    if not reading.call.is_announced:
        raise NotACall
    reading.call.write(written)
    reading.reader.is_garbled = True


def _read_keyword(reading: Reading) -> Generator[None, None, str]:
    """Reads a keyword up to its equals sign, or the beginning of a bare value."""
    reader, word = reading.reader, ""
    while reader.current.isalnum() or reader.current == "_":
        word += reader.current
        yield
    if word:
        yield from reader.space()
    if word and reader.current == "=":
        yield
        yield from reader.space()
        return f"{word}="
    return word
