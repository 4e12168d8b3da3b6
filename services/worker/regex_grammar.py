"""Translates regular expressions to GBNF.

What is understood: characters and escapes, `.`, classes, `\\d \\w \\s` and their opposites (ASCII, as in ECMAScript),
groups, alternatives, greedy and lazy quantifiers, `^` and `$` at the ends. What GBNF has no means for (look-around,
back references, `\\b`, flags, atomic groups) is refused with its place.
"""

import re
from collections.abc import Iterable, Sequence
from re import _constants as tree  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Final, NoReturn

from services.worker.characters import (
    ANY,
    DIGIT,
    SPACE,
    WORD,
    Ranges,
    complement,
    gbnf_class,
    json_characters,
    normalised,
    quoted,
)
from services.worker.gbnf import MAX_REPETITIONS

_MAX_LENGTH: Final = 4096
_MAX_NESTING: Final = 50
_MAX_SIZE: Final = 20_000
_LINE_FEED: Final = ((10, 10),)
_CATEGORIES: Final[dict[Any, Ranges]] = {
    tree.CATEGORY_DIGIT: DIGIT,
    tree.CATEGORY_NOT_DIGIT: complement(DIGIT),
    tree.CATEGORY_SPACE: SPACE,
    tree.CATEGORY_NOT_SPACE: complement(SPACE),
    tree.CATEGORY_WORD: WORD,
    tree.CATEGORY_NOT_WORD: complement(WORD),
}
_SCAN: Final = re.compile(
    r"(?P<class>\[\^?\]?(?:\\.|[^\]\\])*\])"
    r"|(?P<look>\(\?<?[=!])|(?P<back>\(\?P=|\(\?\(|\\[1-9])|(?P<edge>\\[bBAZzG])|(?P<atomic>\(\?>|(?<=[*+?}])\+)"
    r"|(?P<flags>\(\?[a-zA-Z-]+[:)])|(?P<property>\\[pP])|\\.|(?P<anchor>[\^$])|.",
    re.DOTALL,
)
_REFUSED: Final = {
    "look": "look-around is not supported",
    "back": "back references and conditions are not supported",
    "edge": r"\b, \B, \A and \Z are not supported",
    "atomic": "atomic groups and possessive quantifiers are not supported",
    "flags": "flags are not supported",
    "property": "classes of Unicode properties are not supported",
}


class RegexError(ValueError):
    """A regular expression that can't be translated; the message names the place."""


def regex_to_gbnf(pattern: str) -> str:
    """An expression for texts that match from beginning to end."""
    return _Translator(pattern, in_json=False).whole()


def pattern_to_gbnf(pattern: str) -> str:
    """An expression for what stands between the quotes of a JSON string in which the pattern is found."""
    return _Translator(pattern, in_json=True).anywhere()


class _Translator:
    def __init__(self, pattern: str, *, in_json: bool) -> None:
        if len(pattern) > _MAX_LENGTH:
            raise RegexError(f"a regular expression may have {_MAX_LENGTH} characters at most")
        self._in_json = in_json
        self._anchors = _anchors(pattern)
        self._seen_anchors = 0
        named = re.sub(r"(?<!\\)\(\?<(?![=!])", "(?P<", pattern)  # ECMAScript's named groups
        try:
            self._tree = list(_parser.parse(named))
        except re.error as error:
            raise RegexError(f"column {(error.pos or 0) + 1}: {error.msg}") from error
        except (RecursionError, OverflowError) as error:
            raise RegexError("the regular expression is nested too deep or repeats too much") from error

    def whole(self) -> str:
        return " | ".join(self._sequence(_stripped(branch, self._skip_anchor)) for branch in _branches(self._tree))

    def anywhere(self) -> str:
        anything = f"{self._characters(ANY)}*"
        alternatives = []
        for branch in _branches(self._tree):
            starts, ends = _is_at(branch[:1], tree.AT_BEGINNING), _is_at(branch[-1:], tree.AT_END)
            expression = self._sequence(_stripped(branch, self._skip_anchor))
            before, after = ("" if starts else f"{anything} "), ("" if ends else f" {anything}")
            alternatives.append(f"{before}{expression}{after}")
        return " | ".join(alternatives)

    def _skip_anchor(self) -> None:
        self._seen_anchors += 1

    def _sequence(self, items: Iterable[Any], depth: int = 0) -> str:
        if depth > _MAX_NESTING:
            raise RegexError(f"groups may be nested {_MAX_NESTING} deep at most")
        parts: list[str] = []
        text = ""
        for kind, value in items:
            if kind is tree.LITERAL and self._stands_for_itself(value):
                text += chr(value)
                continue
            if text:
                parts.append(quoted(text))
                text = ""
            parts.append(self._item(kind, value, depth))
        if text:
            parts.append(quoted(text))
        expression = " ".join(part for part in parts if part) or '""'
        if len(expression) > _MAX_SIZE:
            raise RegexError("the regular expression is too large")
        return expression

    def _stands_for_itself(self, code: int) -> bool:
        return code in range(0x20, 0xD800) and not (self._in_json and chr(code) in '"\\')

    def _item(self, kind: Any, value: Any, depth: int) -> str:
        if kind in (tree.LITERAL, tree.NOT_LITERAL, tree.ANY, tree.IN):
            return self._characters(_ranges(kind, value))
        if kind is tree.SUBPATTERN:
            return f"({self._sequence(value[3], depth + 1)})"
        if kind is tree.BRANCH:
            return "(" + " | ".join(self._sequence(branch, depth + 1) for branch in value[1]) + ")"
        if kind in (tree.MAX_REPEAT, tree.MIN_REPEAT):
            least, most, repeated = value
            return self._repetition(least, most, repeated, depth)
        if kind is tree.AT:
            self._refuse_anchor()
        raise RegexError(f"{str(kind).lower()} is not supported")

    def _repetition(self, least: int, most: Any, items: Any, depth: int) -> str:
        upper = None if most is tree.MAXREPEAT else int(most)
        if max(least, upper or 0) > MAX_REPETITIONS:
            raise RegexError(f"{{{least},{'' if upper is None else upper}}} repeats more than {MAX_REPETITIONS} times")
        if upper is None and items.getwidth()[0] == 0:
            raise RegexError("what is repeated without bound can't be empty: a quantifier stands behind another one")
        inner = self._sequence(items, depth + 1)
        marks = {(0, None): "*", (1, None): "+", (0, 1): "?"}
        bounds = f"{{{least}}}" if least == upper else f"{{{least},{'' if upper is None else upper}}}"
        return f"({inner}){marks.get((least, upper), bounds)}"

    def _characters(self, ranges: Ranges) -> str:
        if not ranges:
            raise RegexError("a class that no character is in can't be matched")
        return json_characters(ranges) if self._in_json else gbnf_class(ranges)

    def _refuse_anchor(self) -> NoReturn:
        column = self._anchors[min(self._seen_anchors, len(self._anchors) - 1)] + 1 if self._anchors else 1
        raise RegexError(f"column {column}: ^ and $ may only stand at the ends")


def _anchors(pattern: str) -> list[int]:
    """Where the anchors are; refuses what can't be translated."""
    anchors = []
    for found in _SCAN.finditer(pattern):
        if found.lastgroup in _REFUSED:
            raise RegexError(f"column {found.start() + 1}: {_REFUSED[found.lastgroup]}")
        if found.lastgroup == "anchor":
            anchors.append(found.start())
    return anchors


def _branches(items: Sequence[Any]) -> list[Sequence[Any]]:
    """The alternatives of the outermost level. Where all begin alike, Python's parser has moved that before them."""
    if len(items) == 1 and items[0][0] is tree.BRANCH:
        return [list(branch) for branch in items[0][1][1]]
    if len(items) == 2 and _is_at(items[:1], tree.AT_BEGINNING) and items[1][0] is tree.BRANCH:
        return [[items[0], *branch] for branch in items[1][1][1]]
    return [items]


def _is_at(items: Sequence[Any], where: Any) -> bool:
    return len(items) == 1 and tuple(items[0]) == (tree.AT, where)


def _stripped(branch: Sequence[Any], skip_anchor: Any) -> Sequence[Any]:
    """A branch without the anchors at its ends, which whole matches don't need."""
    if _is_at(branch[:1], tree.AT_BEGINNING):
        skip_anchor()
        branch = branch[1:]
    return branch[:-1] if _is_at(branch[-1:], tree.AT_END) else branch


def _ranges(kind: Any, value: Any) -> Ranges:
    if kind is tree.LITERAL:
        return normalised([(value, value)])
    if kind is tree.NOT_LITERAL:
        return complement(((value, value),))
    if kind is tree.ANY:
        return complement(_LINE_FEED)
    ranges: list[tuple[int, int]] = []
    is_negated = False
    for member, content in value:
        if member is tree.NEGATE:
            is_negated = True
        elif member is tree.RANGE:
            ranges.append(content)
        elif member is tree.CATEGORY:
            ranges += _CATEGORIES[content]
        else:
            ranges.append((content, content))
    joined = normalised(ranges)
    return complement(joined) if is_negated else joined
