"""Calls written as markup, each parameter in an element of its own.

Qwen3-Coder: `<function=name><parameter=key>value</parameter></function>`, MiniMax M2: `<invoke name="name"><parameter
name="key">value</parameter></invoke>`, GLM: `name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`.
Values are plain text: the tool's schema says which of them are strings.
"""

import json
import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from services.worker.json_strings import END
from services.worker.tool_calls.call import Call, NotACall
from services.worker.tool_calls.forms import Reading
from services.worker.tool_calls.values import value_writer

_NAME: Final = re.compile(r"[\w./:-]{1,64}")
_MAX_KEY_CHARS: Final = 128
_QUOTES: Final = "\"' \n"
_MIN_CUT_CLOSER: Final = 3


@dataclass(frozen=True, slots=True)
class Markup:
    """The elements of a notation, outside in."""

    wrapper_close: str
    close: str
    parameter: str
    """Begins a parameter; its key follows up to `key_close`."""
    key_close: str
    value: str
    """Begins a value behind a key, or nothing."""
    value_close: str
    has_value_on_own_lines: bool = False
    """Whether a line break behind and one before the tags around a value is no part of it."""

    @property
    def tags(self) -> tuple[str, ...]:
        """What may follow a name or a value."""
        return (self.parameter, self.close, self.wrapper_close)


def read_named_element(reading: Reading, markup: Markup) -> Generator[None, None, bool]:
    """Reads a call from its name, which ends with a bracket, on."""
    name = ""
    while reading.reader.current not in {">", "<", "\n", END} and len(name) <= _MAX_KEY_CHARS:
        name += reading.reader.current
        yield
    name = name.strip(_QUOTES)
    is_offered = reading.names.resolve(name).is_offered
    if not _NAME.fullmatch(name) or not (is_offered or reading.is_wrapped) or reading.reader.current == END:
        raise NotACall
    reading.call.set_name(name)
    if reading.reader.current == ">":
        yield
    yield from read_parameters(reading, markup)
    return True


def read_parameters(reading: Reading, markup: Markup, begun: str = "") -> Generator[None, None, None]:
    """Reads parameters up to the end of their call; `begun` is what was read of the first tag already."""
    call, separator = reading.call, ""
    call.begin_arguments("arguments")
    call.write("{")
    tag = yield from _tag(reading, markup.tags, begun)
    while tag == markup.parameter:
        yield
        key = yield from _key(reading, markup)
        if not key:
            tag = ""
            break
        call.write(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        separator = ", "
        tag = yield from _value(reading, call, key, markup)
    call.write("}")
    call.complete()
    if tag in markup.tags:
        yield
    else:
        reading.text(tag)


def _tag(reading: Reading, tags: tuple[str, ...], begun: str = "") -> Generator[None, None, str]:
    """Reads one of the tags up to its last character; otherwise returns the text that is none."""
    reader, read = reading.reader, begun
    if not begun:
        yield from reader.space()
    while reader.current != END and any(tag.startswith(read + reader.current) for tag in tags):
        read += reader.current
        if read in tags:
            break
        yield
    return read


def _key(reading: Reading, markup: Markup) -> Generator[None, None, str]:
    """Reads a key and what stands between it and the value; nothing if the answer ends in it."""
    reader, read = reading.reader, ""
    while not read.endswith(markup.key_close):
        if reader.current == END or len(read) > _MAX_KEY_CHARS:
            return ""
        read += reader.current
        yield
    return read.removesuffix(markup.key_close).strip(_QUOTES)


def _value(reading: Reading, call: Call, key: str, markup: Markup) -> Generator[None, None, str]:
    """Reads a value and returns the tag behind it, whose last character is the current one; nothing at the end."""
    reader = reading.reader
    writer = value_writer(reading.names.parameters(call.name).types(key), call.write)
    held = yield from _value_start(reading, markup)
    while reader.current != END:
        held += reader.current
        while held and (tag := _ending(held, markup)) is None:
            writer.put(held[0])
            held = held[1:]
        if held and tag:
            writer.finish()
            return tag
        yield
    for char in _without_cut_end(held, markup):
        writer.put(char)
    writer.finish()
    return ""


def _value_start(reading: Reading, markup: Markup) -> Generator[None, None, str]:
    """Skips what precedes a value; a tag missing there was forgotten, and what was read instead begins the value."""
    if markup.has_value_on_own_lines and reading.reader.current == "\n":
        yield
    if not markup.value:
        return ""
    read = yield from _tag(reading, (markup.value,))
    if read != markup.value:
        return read
    yield
    return ""


def _ending(text: str, markup: Markup) -> str | None:
    """The tag behind a text that ends a value; empty while that is undecided, None if the text is part of the value.

    A closing tag counts only where another tag follows: code that a model writes may contain closing tags, too.
    """
    body = text.removeprefix("\n")
    wrapper = (markup.wrapper_close,) if markup.wrapper_close != markup.close else ()
    found = [
        _followed(body if markup.has_value_on_own_lines else text, markup.value_close, markup.tags),
        _followed(body, markup.close, wrapper),
    ]
    if any(found):
        return next(filter(None, found))
    return "" if "" in found else None


def _followed(text: str, close: str, followers: tuple[str, ...]) -> str | None:
    if close.startswith(text):
        return ""
    if not text.startswith(close):
        return None
    rest = text[len(close) :].lstrip()
    if rest in followers:
        return rest
    return "" if not rest or any(follower.startswith(rest) for follower in followers) else None


def _without_cut_end(text: str, markup: Markup) -> str:
    """What the answer's last characters say beyond closing tags, of which the last may be cut."""
    body = text.removeprefix("\n")
    if not body:
        return "" if markup.has_value_on_own_lines else text
    is_cut = len(body) >= _MIN_CUT_CLOSER and any(
        close.startswith(body) for close in (markup.value_close, markup.close)
    )
    return "" if is_cut or body.startswith((markup.value_close, markup.close)) else text
