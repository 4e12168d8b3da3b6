"""Keeps text of messages from being read as special tokens, however a template moves it around.

Literals such as `<|im_start|>` in a message are replaced by marks before rendering; afterwards the prompt is cut at the
marks. What the template itself writes is tokenized with its special tokens, the literals without.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

# Private use: no meaning in any text, untouched by JSON escaping, trimming and changes of case.
_GUARDS: Final = range(0x10F000, 0x10FFFE)


@dataclass(frozen=True, slots=True)
class Segment:
    """Text to tokenize, with or without recognising special tokens in it."""

    text: str
    parse_special: bool
    token_ids: tuple[int, ...] | None = None
    """The tokens of the text, where they are known."""


class Protection:
    """Values whose special literals are replaced by marks, and the way back."""

    def __init__(self, value: Any, literals: re.Pattern[str] | None) -> None:
        self._guard = _unused_character(value)
        self._literals: list[Segment] = []
        self.end_mark = f"{self._guard}end{self._guard}"
        self.value = value if literals is None else _mapped(value, lambda text: literals.sub(self._mark, text))

    def segments(self, text: str) -> list[Segment]:
        """Cuts a rendered text at the marks; neighbours of one kind are joined."""
        segments: list[Segment] = []
        for index, piece in enumerate(text.split(self._guard)):
            is_mark = index % 2 == 1
            segment = self._literals[int(piece)] if is_mark else Segment(piece, parse_special=True)
            if segments and _can_join(segments[-1], segment):
                segment = Segment(segments.pop().text + segment.text, segment.parse_special)
            if segment.text or segment.token_ids is not None:
                segments.append(segment)
        return segments

    def place_of(self, text: str, token_ids: tuple[int, ...]) -> str:
        """Makes a mark that stands for text whose tokens are known."""
        return self._add(Segment(text, parse_special=True, token_ids=token_ids))

    def _mark(self, match: re.Match[str]) -> str:
        return self._add(Segment(match.group(), parse_special=False))

    def _add(self, segment: Segment) -> str:
        self._literals.append(segment)
        return f"{self._guard}{len(self._literals) - 1}{self._guard}"


class ProtectedText:
    """Knows a model's special tokens."""

    def __init__(self, special_tokens: Collection[str]) -> None:
        longest_first = sorted(filter(None, special_tokens), key=len, reverse=True)
        self._literals = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def protect(self, value: Any) -> Protection:
        """Replaces special literals in all strings of nested lists and objects."""
        return Protection(value, self._literals)


def _can_join(left: Segment, right: Segment) -> bool:
    return left.parse_special == right.parse_special and left.token_ids is None and right.token_ids is None


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    if isinstance(value, dict):
        return type(value)((change(key), _mapped(item, change)) for key, item in value.items())
    return value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)


def _unused_character(value: Any) -> str:
    strings = list(_strings(value))
    candidates = map(chr, _GUARDS)
    return next(char for char in candidates if not any(char in text for text in strings))
