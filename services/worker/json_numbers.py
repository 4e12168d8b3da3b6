"""GBNF for JSON numbers within bounds. Pure."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

MAX_DIGITS: Final = 19
"""Digits of an integer without bounds: what 64 bits hold."""
ANY_INTEGER: Final = f'"-"? ("0" | [1-9] [0-9]{{0,{MAX_DIGITS - 1}}})'
ANY_NUMBER: Final = '"-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?'
_FRACTION: Final = '("." [0-9]{1,16})?'
_MAX_DECIMALS: Final = 12
_FAR: Final = 10**12
_MOST_WITH_FRACTION: Final = 10**15 - 1  # more digits would not survive as a floating-point number
Digits = tuple[tuple[int, int], ...]
"""A choice of numbers of one length: a range of digits at each place."""


class NoSuchNumber(ValueError):
    """No number lies within the bounds."""


@dataclass(frozen=True)
class Bounds:
    """Which numbers are allowed; unset ends are open."""

    low: Decimal | None = None
    high: Decimal | None = None
    excludes_low: bool = False
    excludes_high: bool = False

    @property
    def are_open(self) -> bool:
        """Whether all numbers are allowed."""
        return self.low is None and self.high is None


def integer(bounds: Bounds) -> str:
    """An expression for the integers within bounds."""
    if bounds.are_open:
        return ANY_INTEGER
    low, high = _first_integer(bounds), _last_integer(bounds)
    if low > high:
        raise NoSuchNumber("no integer lies within the bounds")
    return _alternatives(_signed(low, high, ""))


def number(bounds: Bounds) -> str:
    """An expression for numbers within bounds, without exponents unless they are open."""
    if bounds.are_open:
        return ANY_NUMBER
    low, high = _first_integer(bounds), _last_integer(bounds)
    forms: list[str] = []
    if low <= high:
        forms += _with_fractions(low, high)
    forms += _beyond_integers(bounds, low, high)
    if not forms:
        raise NoSuchNumber("no number lies within the bounds")
    return _alternatives(forms)


def _first_integer(bounds: Bounds) -> int:
    if bounds.low is None:
        return -(10**MAX_DIGITS - 1)
    whole = _ceiling(bounds.low)
    first = whole + 1 if bounds.excludes_low and whole == bounds.low else whole
    return -_rounded(-first)


def _last_integer(bounds: Bounds) -> int:
    if bounds.high is None:
        return 10**MAX_DIGITS - 1
    whole = -_ceiling(-bounds.high)
    return _rounded(whole - 1 if bounds.excludes_high and whole == bounds.high else whole)


def _rounded(bound: int) -> int:
    """Draws a far bound in to the next number of nines only: nobody means 9007199254740991 to the digit."""
    return 10 ** (len(str(bound)) - 1) - 1 if bound >= _FAR else bound


def _ceiling(value: Decimal) -> int:
    whole = int(value)
    return whole + 1 if value > whole else whole


def _with_fractions(low: int, high: int) -> list[str]:
    """Integers, and what lies between two of them."""
    least, most = max(low + 1, -_MOST_WITH_FRACTION), min(high - 1, _MOST_WITH_FRACTION)
    forms = _signed(low, high, "")
    if low < 0:
        forms += _signed(least, min(-1, high), _FRACTION)
        forms += ['"-0" ' + _FRACTION] if high >= 0 else []
    if most >= max(0, low):
        forms += _signed(max(0, low), most, _FRACTION)
    return forms


def _beyond_integers(bounds: Bounds, low: int, high: int) -> list[str]:
    """Decimals between a bound and the next integer, with as many places as the bound has (or one more)."""
    forms: list[str] = []
    if low > high:  # no integer between the bounds
        assert bounds.low is not None
        assert bounds.high is not None
        return _decimals(bounds.low, bounds.high, bounds)
    if bounds.low is not None and bounds.low < low:
        forms += _decimals(bounds.low, Decimal(low), bounds)
    if bounds.high is not None and bounds.high > high:
        forms += _decimals(Decimal(high), bounds.high, bounds)
    return forms


def _decimals(low: Decimal, high: Decimal, bounds: Bounds) -> list[str]:
    places = max(1, -_exponent(low), -_exponent(high)) + 1
    if places > _MAX_DECIMALS:
        raise NoSuchNumber(f"bounds may have {_MAX_DECIMALS - 1} decimals at most")
    scale = 10**places
    first, last = int(low * scale), int(high * scale)
    if bounds.excludes_low or low != bounds.low:
        first += 1
    if bounds.excludes_high or high != bounds.high:
        last -= 1
    return _signed(first, last, "", places=places) if first <= last else []


def _exponent(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def _signed(low: int, high: int, suffix: str, *, places: int = 0) -> list[str]:
    forms: list[str] = []
    if low < 0:
        forms += [f'"-" {digits} {suffix}' for digits in _written_all(max(1, -high), -low, places)]
    if high >= 0 and low <= high:
        forms += [f"{digits} {suffix}" for digits in _written_all(max(0, low), high, places)]
    return [form.strip() for form in forms]


def _written_all(low: int, high: int, places: int) -> list[str]:
    choices = _magnitudes(low, high)
    if places:
        return [_with_point(digits, places) for digits in choices]
    lengths = [len(digits) for digits in choices if digits == _all_of(len(digits))]
    if len(lengths) < 2:
        return [_digits(digits) for digits in choices]
    rest = [_digits(digits) for digits in choices if digits != _all_of(len(digits))]
    return [*rest, f"[1-9] [0-9]{{{lengths[0] - 1},{lengths[-1] - 1}}}"]


def _all_of(length: int) -> Digits:
    return ((1, 9), *((0, 9),) * (length - 1))


def _magnitudes(low: int, high: int) -> list[Digits]:
    """Covers the integers from `low` to `high` (not negative) with choices of one length each."""
    if low > high:
        return []
    choices: list[Digits] = []
    for length in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        choices += _of_one_length(str(first), str(min(high, 10**length - 1)))
    return choices


def _of_one_length(low: str, high: str) -> list[Digits]:
    if not low:
        return [()]
    first, last = int(low[0]), int(high[0])
    zeros, nines = "0" * (len(low) - 1), "9" * (len(low) - 1)
    if first == last:
        return [((first, first), *rest) for rest in _of_one_length(low[1:], high[1:])]
    choices: list[Digits] = []
    if low[1:] != zeros:
        choices += [((first, first), *rest) for rest in _of_one_length(low[1:], nines)]
        first += 1
    if high[1:] != nines:
        choices += [((last, last), *rest) for rest in _of_one_length(zeros, high[1:])]
        last -= 1
    if first <= last:
        choices.append(((first, last), *((0, 9) for _ in zeros)))
    return choices


def _with_point(digits: Digits, places: int) -> str:
    padded = ((0, 0),) * (places + 1 - len(digits)) + digits
    return f'{_digits(padded[:-places])} "." {_digits(padded[-places:])}'


def _digits(digits: Digits) -> str:
    parts: list[str] = []
    for low, high in digits:
        part = f"[{low}]" if low == high else f"[{low}-{high}]"
        if parts and parts[-1].split("{")[0] == part:
            parts[-1] = f"{part}{{{_times(parts[-1]) + 1}}}"
        else:
            parts.append(part)
    return " ".join(parts)


def _times(part: str) -> int:
    return int(part.partition("{")[2].rstrip("}") or 1)


def _alternatives(forms: list[str]) -> str:
    return " | ".join(dict.fromkeys(forms))
