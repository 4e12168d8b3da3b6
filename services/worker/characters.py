"""Sets of characters as ranges of code points, and how GBNF writes them. Pure."""

from collections.abc import Iterable
from typing import Final

Ranges = tuple[tuple[int, int], ...]

_LAST: Final = 0x10FFFF
_SURROGATES: Final = (0xD800, 0xDFFF)
_JSON_ESCAPES: Final = {0x22: '"', 0x5C: "\\", 0x08: "b", 0x0C: "f", 0x0A: "n", 0x0D: "r", 0x09: "t"}
_GBNF_ESCAPES: Final = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}


def normalised(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sorts ranges, joins those that touch and takes surrogates out, which no text holds."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return without(tuple(joined), *_SURROGATES)


def without(ranges: Ranges, low: int, high: int) -> Ranges:
    """Takes a range out."""
    kept: list[tuple[int, int]] = []
    for first, last in ranges:
        pieces = ((first, min(last, low - 1)), (max(first, high + 1), last))
        kept += [piece for piece in pieces if piece[0] <= piece[1]]
    return tuple(dict.fromkeys(kept))


def complement(ranges: Ranges) -> Ranges:
    """All other characters."""
    rest: Ranges = ((0, _LAST),)
    for low, high in ranges:
        rest = without(rest, low, high)
    return without(rest, *_SURROGATES)


ANY: Final = complement(())
DIGIT: Final = normalised([(0x30, 0x39)])
WORD: Final = normalised([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)])
SPACE: Final = normalised([(0x09, 0x0D), (0x20, 0x20)])


def gbnf_class(ranges: Ranges) -> str:
    """One character of a set."""
    return "[" + "".join(_range(low, high) for low, high in without(ranges, 0, 0)) + "]"


def json_characters(ranges: Ranges) -> str:
    """One character of a set as JSON writes it between quotes: as itself, or, where that can't be, as an escape."""
    plain = without(without(without(ranges, 0, 0x1F), 0x22, 0x22), 0x5C, 0x5C)
    escaped = "".join(letter for code, letter in _JSON_ESCAPES.items() if _holds(ranges, code))
    forms = [gbnf_class(plain)] if plain else []
    if escaped:
        forms.append('"\\\\" [' + "".join(_character(ord(letter)) for letter in escaped) + "]")
    if _holds_all(ranges, 0, 0x1F):
        forms.append('"\\\\u00" [01] [0-9a-fA-F]')
    if not forms:
        raise ValueError("no character of this class can stand in a JSON string")
    return forms[0] if len(forms) == 1 and plain else "(" + " | ".join(forms) + ")"


def quoted(text: str) -> str:
    """A literal."""
    return '"' + "".join(_in_literal(character) for character in text) + '"'


def _holds(ranges: Ranges, code: int) -> bool:
    return any(low <= code <= high for low, high in ranges)


def _holds_all(ranges: Ranges, low: int, high: int) -> bool:
    return any(first <= low and high <= last for first, last in ranges)


def _range(low: int, high: int) -> str:
    return _character(low) if low == high else f"{_character(low)}-{_character(high)}"


def _character(code: int) -> str:
    if code in _GBNF_ESCAPES:
        return _GBNF_ESCAPES[code]
    character = chr(code)
    if character in '\\"[]-':
        return f"\\{character}"
    if character == "^" or not character.isprintable():
        return _by_number(code)
    return character


def _in_literal(character: str) -> str:
    code = ord(character)
    if code in _GBNF_ESCAPES:
        return _GBNF_ESCAPES[code]
    if character in '\\"':
        return f"\\{character}"
    return character if character.isprintable() else _by_number(code)


def _by_number(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
