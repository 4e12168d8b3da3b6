"""Reads GBNF grammars (llama.cpp, `grammars/README.md`) and names what is wrong with them by line and column."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

MAX_REPETITIONS: Final = 2000  # llama.cpp refuses more, or silently drops the bound
_MAX_LENGTH: Final = 512 * 1024
_MAX_NESTING: Final = 60
_NAME: Final = re.compile(r"[A-Za-z0-9-]+")
_BLANK: Final = re.compile(r"(?:[ \t]+|#[^\r\n]*)*")
_BLANK_LINES: Final = re.compile(r"(?:[ \t\r\n]+|#[^\r\n]*)*")
_CHARACTER: Final = re.compile(
    r'\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8}|\\[trn\\"\[\]-]|[^\\]', re.DOTALL
)
_TOKEN: Final = re.compile(r"(!?)<(\[[0-9]+\]|[^>\0]*)>")
_BOUNDS: Final = re.compile(r"\{[ \t]*([0-9]+)[ \t]*(?:(,)[ \t]*([0-9]*)[ \t]*)?\}")
_ESCAPES: Final = {"t": "\t", "r": "\r", "n": "\n"}
_QUANTIFIERS: Final[dict[str, tuple[int, int | None]]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class GrammarError(ValueError):
    """A grammar that can't be used; line and column count from 1."""

    def __init__(self, message: str, text: str, position: int) -> None:
        self.line = text.count("\n", 0, position) + 1
        self.column = position - (text.rfind("\n", 0, position) + 1) + 1
        super().__init__(f"line {self.line}, column {self.column}: {message}")


@dataclass(frozen=True, eq=False)
class Literal:
    """The characters, one after the other."""

    text: str


@dataclass(frozen=True, eq=False)
class Characters:
    """One character of these ranges, or of none of them."""

    ranges: tuple[tuple[int, int], ...]
    is_negated: bool = False


@dataclass(frozen=True, eq=False)
class Token:
    """One token of the vocabulary, or any other."""

    text: str
    is_negated: bool


@dataclass(frozen=True, eq=False)
class Reference:
    """What a rule stands for."""

    name: str
    position: int


@dataclass(frozen=True, eq=False)
class Group:
    """One of several sequences."""

    alternatives: "tuple[tuple[Item, ...], ...]"


@dataclass(frozen=True, eq=False)
class Repetition:
    """An item several times; without `most` as often as wanted."""

    item: "Item"
    least: int
    most: int | None
    position: int


Item = Literal | Characters | Token | Reference | Group | Repetition
ANY_CHARACTER: Final = ((0, 0x10FFFF),)


@dataclass(frozen=True)
class Rule:
    """A named rule."""

    body: Group
    position: int


def parse(text: str) -> dict[str, Rule]:
    """Reads a grammar; raises `GrammarError`. Of rules with one name the last one holds, as in llama.cpp."""
    return _Parser(text).rules()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        if len(text) > _MAX_LENGTH:
            self._fail(f"a grammar may have {_MAX_LENGTH} characters at most")
        if "\0" in text:
            self._position = text.index("\0")
            self._fail("a zero byte is not allowed")

    def rules(self) -> dict[str, Rule]:
        rules: dict[str, Rule] = {}
        self._skip(_BLANK_LINES)
        while self._position < len(self._text):
            start = self._position
            name = self._take(_NAME, "the name of a rule")
            self._skip(_BLANK)
            if not self._text.startswith("::=", self._position):
                self._fail("'::=' is expected")
            self._position += 3
            self._skip(_BLANK_LINES)
            rules[name] = Rule(self._alternatives(0), start)
            if self._position < len(self._text) and self._text[self._position] not in "\r\n":
                self._fail(f"{self._text[self._position]!r} is not expected")
            self._skip(_BLANK_LINES)
        return rules

    def _alternatives(self, depth: int) -> Group:
        sequences = [self._sequence(depth)]
        while self._peek() == "|":
            self._position += 1
            self._skip(_BLANK_LINES)
            sequences.append(self._sequence(depth))
        return Group(tuple(sequences))

    def _sequence(self, depth: int) -> tuple[Item, ...]:
        items: list[Item] = []
        while self._position < len(self._text):
            quantifier = self._quantifier()
            if quantifier is not None:
                position, least, most = quantifier
                if not items:
                    self._fail("there is nothing before this to repeat", position)
                items[-1] = Repetition(items[-1], least, most, position)
            else:
                item = self._item(depth)
                if item is None:
                    break
                items.append(item)
            self._skip(_BLANK_LINES if depth else _BLANK)
        return tuple(items)

    def _quantifier(self) -> tuple[int, int, int | None] | None:
        position = self._position
        mark = self._text[position]
        if mark in _QUANTIFIERS:
            self._position += 1
            return (position, *_QUANTIFIERS[mark])
        if mark != "{":
            return None
        bounds = re.match(_BOUNDS, self._text[position : position + 80])
        if bounds is None:
            self._fail("a repetition is written {n}, {n,} or {n,m}")
        self._position += bounds.end()
        least = int(bounds[1])
        most = least if bounds[2] is None else int(bounds[3]) if bounds[3] else None
        if max(least, most or 0) > MAX_REPETITIONS:
            self._fail(f"an item may be repeated {MAX_REPETITIONS} times at most", position)
        if most is not None and most < least:
            self._fail("a repetition's upper bound lies below its lower one", position)
        return position, least, most

    def _item(self, depth: int) -> Item | None:
        start = self._peek()
        if start == '"':
            return Literal("".join(map(chr, self._characters('"'))))
        if start == "[":
            return self._character_class()
        if start == ".":
            self._position += 1
            return Characters(ANY_CHARACTER)
        if start == "(":
            return self._group(depth)
        if start in "<!":
            found = _TOKEN.match(self._text, self._position)
            if found is None:
                self._fail("a token is written <[id]> or <text>")
            self._position = found.end()
            return Token(found[2], bool(found[1]))
        if _NAME.match(start):
            position = self._position
            return Reference(self._take(_NAME, "a name"), position)
        return None

    def _group(self, depth: int) -> Group:
        opening = self._position
        if depth >= _MAX_NESTING:
            self._fail(f"parentheses may be nested {_MAX_NESTING} deep at most")
        self._position += 1
        self._skip(_BLANK_LINES)
        group = self._alternatives(depth + 1)
        if self._peek() != ")":
            self._fail("this parenthesis is not closed", opening)
        self._position += 1
        return group

    def _character_class(self) -> Characters:
        is_negated = self._text.startswith("^", self._position + 1)
        if is_negated:
            self._position += 1
        ranges: list[tuple[int, int]] = []
        characters = self._characters("]")
        for low in characters:
            high = low
            if self._peek() == "-" and self._text[self._position + 1 : self._position + 2] not in ("]", ""):
                self._position += 1
                high = next(characters)
            ranges.append((low, high))
        if not ranges:
            self._fail("a character class can't be empty")
        return Characters(tuple(ranges), is_negated)

    def _characters(self, closing: str) -> "_Characters":
        opening = self._position
        self._position += 1
        return _Characters(self, closing, opening)

    def take_character(self, closing: str, opening: int) -> int | None:
        """Reads one character of a literal or class; nothing at its end."""
        if self._position >= len(self._text):
            self._fail(f"{closing!r} is missing", opening)
        if self._text[self._position] == closing:
            self._position += 1
            return None
        found = _CHARACTER.match(self._text, self._position)
        if found is None:
            self._fail("this escape is unknown")
        self._position = found.end()
        piece = found[0]
        if piece[0] != "\\":
            return ord(piece)
        if piece[1] not in "xuU":
            return ord(_ESCAPES.get(piece[1], piece[1]))
        code = int(piece[2:], 16)
        if code > 0x10FFFF:
            self._fail("there is no such character", found.start())
        return code

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1] or "\0"

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._position)
        self._position = found.end() if found else self._position

    def _take(self, pattern: re.Pattern[str], wanted: str) -> str:
        found = pattern.match(self._text, self._position)
        if found is None:
            self._fail(f"{wanted} is expected")
        self._position = found.end()
        return found[0]

    def _fail(self, message: str, position: int | None = None) -> NoReturn:
        raise GrammarError(message, self._text, self._position if position is None else position)


class _Characters:
    """Iterates over the characters of a literal or class, as the parser advances."""

    def __init__(self, parser: _Parser, closing: str, opening: int) -> None:
        self._parser, self._closing, self._opening = parser, closing, opening

    def __iter__(self) -> "_Characters":
        return self

    def __next__(self) -> int:
        character = self._parser.take_character(self._closing, self._opening)
        if character is None:
            raise StopIteration
        return character


def references(items: Sequence[Item]) -> "list[Reference]":
    """All references in items, however deep."""
    found: list[Reference] = []
    todo = list(items)
    while todo:
        item = todo.pop()
        if isinstance(item, Reference):
            found.append(item)
        elif isinstance(item, Repetition):
            todo.append(item.item)
        elif isinstance(item, Group):
            todo += [part for sequence in item.alternatives for part in sequence]
    return found
