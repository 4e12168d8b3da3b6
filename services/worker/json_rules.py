"""Rules of a grammar for JSON while it is written: names, repetitions, and the pieces that all documents share."""

import json
from collections.abc import Sequence
from typing import Any, Final

from services.worker.characters import ANY, json_characters, quoted
from services.worker.json_names import other_names

NOTHING: Final = r"[^\x01-\U0010FFFF]"
"""A class that no character is in."""
_BLOCK: Final = 500
_CHARACTER: Final = json_characters(ANY)
_UNICODE_ESCAPE: Final = "([0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2})"  # no halves of surrogate pairs
_SPACE: Final = '[ ]? | "\\n" ([ ]{0,40} | [\\t]{1,10})'  # bounded: a model could fill an answer with it


class Rules:
    """Named rules; equal ones share a name. All names begin with that of the root."""

    def __init__(self, root_name: str) -> None:
        self.root_name = root_name
        self.bodies = {root_name: ""}
        self._names: dict[str, str] = {}
        self.space = self.add("space", _SPACE)
        self.comma = f'"," {self.space}'

    def __len__(self) -> int:
        return len(self.bodies)

    def add(self, hint: str, body: str) -> str:
        """The name of a rule with this body."""
        if (known := self._names.get(body)) is not None:
            return known
        name = self.reserve(hint)
        self.bodies[name] = body
        self._names[body] = name
        return name

    def reserve(self, hint: str) -> str:
        """A name whose body comes later."""
        name = f"{self.root_name}-{hint}-{len(self.bodies)}"
        self.bodies[name] = NOTHING
        return name

    def text(self) -> str:
        """The grammar."""
        return "".join(f"{name} ::= {body}\n" for name, body in self.bodies.items())

    def character(self) -> str:
        """One character of a JSON string."""
        return self.add("char", f'{_CHARACTER} | "\\\\u" {_UNICODE_ESCAPE}')

    def key(self, name: str) -> str:
        """A property's name and what stands before its value."""
        return joined(quoted(json.dumps(name, ensure_ascii=False) + ":"), self.space)

    def pair(self, name: str, value: str) -> str:
        """A property."""
        return self.add("pair", joined(self.key(name), value))

    def other_name(self, declared: Sequence[str]) -> str:
        """Any name but the declared ones, without quotation marks."""
        if not declared:
            return f"{self.character()}*"
        return other_names(declared, lambda body: self.add("name", body))

    def constant(self, value: Any) -> str:
        """One JSON value."""
        if isinstance(value, dict):
            pairs = [joined(self.key(name), self.constant(item)) for name, item in value.items()]
            return self.enclosed("{", f" {self.comma} ".join(pairs), "}")
        if isinstance(value, list):
            return self.enclosed("[", f" {self.comma} ".join(map(self.constant, value)), "]")
        return quoted(json.dumps(value, ensure_ascii=False))

    def enclosed(self, opening: str, body: str, closing: str) -> str:
        """Brackets around something."""
        inside = joined(self.space, body, self.space) if body else self.space
        return joined(f'"{opening}"', inside, f'"{closing}"')

    def times(self, item: str, low: int, high: int | None) -> str:
        """An item repeated. Large counts go by blocks: llama.cpp makes a rule of every repetition."""
        if max(low, high or 0) <= _BLOCK:
            return repeated(item, low, high)
        block = self.add("block", f"{item}{{{_BLOCK}}}")
        blocks, rest = divmod(low, _BLOCK)
        least = joined(repeated(block, blocks, blocks), repeated(item, rest, rest))
        if high is None:
            return joined(least, f"{item}*")
        blocks, rest = divmod(high - low, _BLOCK)
        if not blocks:
            return joined(least, repeated(item, 0, rest))
        fewer = joined(repeated(block, 0, blocks - 1), repeated(item, 0, _BLOCK - 1))
        most = joined(repeated(block, blocks, blocks), repeated(item, 0, rest))
        return joined(least, f"({fewer} | {most})")

    def listed(self, item: str, low: int, high: int | None) -> str:
        """An item repeated with commas between."""
        if high == 0:
            return ""
        further = self.add("more", joined(self.comma, item))
        body = joined(item, self.times(further, max(low - 1, 0), None if high is None else high - 1))
        return body if low else f"({body})?"


def joined(*parts: str) -> str:
    """Expressions one after the other; empty ones are left out."""
    return " ".join(part for part in parts if part)


def repeated(item: str, low: int, high: int | None) -> str:
    """A single name or bracket repeated."""
    if high == 0:
        return ""
    marks = {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}
    bounds = f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}"
    return f"{item}{marks.get((low, high), bounds)}"
