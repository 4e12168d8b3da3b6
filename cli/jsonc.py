"""Reads JSON with comments, and changes single values in its text without touching the rest."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, Final

_SPACE: Final = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_SCALAR: Final = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")
_INDENT: Final = "  "


class JsoncError(ValueError):
    """The text is not JSON with comments; the message names the line."""


@dataclass
class Node:
    """A value and where it stands in the text."""

    start: int
    end: int
    value: Any
    members: dict[str, "Node"] = field(default_factory=dict)
    key_start: int = 0
    last_end: int = 0
    has_trailing_comma: bool = False


def parse(text: str) -> Any:
    """The value that the text stands for; comments and trailing commas are allowed."""
    return _document(text).value


def with_value(text: str, path: Sequence[str], value: Any) -> str:
    """The text with a value set, objects on the way created where they are missing."""
    node = _document(text)
    for depth, key in enumerate(path):
        if not isinstance(node.value, dict):
            raise JsoncError(f"{'.'.join(path[:depth]) or 'the document'} is not an object")
        child = node.members.get(key)
        if child is None:
            return _with_member(text, node, depth, key, _nested(path[depth + 1 :], value))
        node = child
    return text[: node.start] + _dump(value, _line_indent(text, node.key_start)) + text[node.end :]


def _with_member(text: str, node: Node, depth: int, key: str, value: Any) -> str:
    closing = node.end - 1
    indent = _member_indent(text, node, depth)
    between = text[node.last_end : closing].rstrip()
    comma = "," if node.members and not node.has_trailing_comma else ""
    member = f"{json.dumps(key)}: {_dump(value, indent)}"
    closing_indent = indent.removesuffix("\t" if "\t" in indent else _INDENT)
    return f"{text[: node.last_end]}{comma}{between}\n{indent}{member}\n{closing_indent}{text[closing:]}"


def _member_indent(text: str, node: Node, depth: int) -> str:
    for member in node.members.values():
        return _line_indent(text, member.key_start)
    return _line_indent(text, node.start) + _INDENT if depth else _INDENT


def _line_indent(text: str, position: int) -> str:
    line = text[text.rfind("\n", 0, position) + 1 : position]
    return line[: len(line) - len(line.lstrip())]


def _dump(value: Any, indent: str) -> str:
    return json.dumps(value, indent=_INDENT, ensure_ascii=False).replace("\n", "\n" + indent)


def _nested(path: Sequence[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _document(text: str) -> Node:
    try:
        node = _value(text, _skip(text, 0))
        if (end := _skip(text, node.end)) != len(text):
            raise _error(text, end, "nothing may follow the value")
    except RecursionError as error:
        raise JsoncError("it is nested too deeply") from error
    return node


def _value(text: str, start: int) -> Node:
    character = text[start : start + 1]
    if character == "{":
        return _object(text, start)
    if character == "[":
        return _array(text, start)
    if character == '"':
        value, end = _string(text, start)
        return Node(start, end, value)
    if match := _SCALAR.match(text, start):
        return Node(start, match.end(), json.loads(match[0]))
    raise _error(text, start, "a value is missing")


def _object(text: str, start: int) -> Node:
    node = Node(start, start, {}, last_end=start + 1)
    position = _skip(text, start + 1)
    while text[position : position + 1] != "}":
        if text[position : position + 1] != '"':
            raise _error(text, position, "a name in double quotes is missing")
        key_start = position
        key, position = _string(text, position)
        position = _expect(text, _skip(text, position), ":")
        member = _value(text, _skip(text, position))
        member.key_start = key_start
        node.members[key], node.value[key] = member, member.value
        node.last_end = member.end
        position, node.has_trailing_comma = _separator(text, member.end, "}")
    node.end = position + 1
    return node


def _array(text: str, start: int) -> Node:
    node = Node(start, start, [])
    position = _skip(text, start + 1)
    while text[position : position + 1] != "]":
        item = _value(text, position)
        node.value.append(item.value)
        position, _ = _separator(text, item.end, "]")
    node.end = position + 1
    return node


def _separator(text: str, position: int, closing: str) -> tuple[int, bool]:
    position = _skip(text, position)
    if text[position : position + 1] == closing:
        return position, False
    return _skip(text, _expect(text, position, ",")), True


def _string(text: str, start: int) -> tuple[str, int]:
    try:
        value, end = scanstring(text, start + 1, True)
    except json.JSONDecodeError as error:
        raise _error(text, error.pos, error.msg) from error
    return value, end


def _expect(text: str, position: int, character: str) -> int:
    if text[position : position + 1] != character:
        raise _error(text, position, f"{character!r} is missing")
    return position + 1


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _error(text: str, position: int, problem: str) -> JsoncError:
    return JsoncError(f"line {text.count(chr(10), 0, position) + 1}: {problem}")
