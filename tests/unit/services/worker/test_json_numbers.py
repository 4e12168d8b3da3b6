import json
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.worker.json_numbers import Bounds, NoSuchNumber, integer, number
from tests.fakes.gbnf_recogniser import Recogniser

DECIMALS = st.decimals(-2000, 2000, places=2).map(lambda value: value.normalize())


def bounds_of(low: Decimal | None, high: Decimal | None, excludes_low: bool, excludes_high: bool) -> Bounds:
    if low is not None and high is not None and low > high:
        low, high = high, low
    return Bounds(low, high, excludes_low, excludes_high)


BOUNDS = st.builds(bounds_of, st.none() | DECIMALS, st.none() | DECIMALS, st.booleans(), st.booleans())


def lies_within(value: Decimal, bounds: Bounds) -> bool:
    above = bounds.low is None or value > bounds.low or (value == bounds.low and not bounds.excludes_low)
    below = bounds.high is None or value < bounds.high or (value == bounds.high and not bounds.excludes_high)
    return above and below


@given(bounds=BOUNDS, value=st.integers(-2100, 2100))
def test_integers_are_accepted_exactly_within_their_bounds(bounds: Bounds, value: int) -> None:
    try:
        recogniser = Recogniser(f"root ::= {integer(bounds)}")
    except NoSuchNumber:
        assert not lies_within(Decimal(value), bounds)
    else:
        assert recogniser.accepts(str(value)) == lies_within(Decimal(value), bounds)


@given(bounds=BOUNDS, value=st.decimals(-2100, 2100, places=3), use_bound=st.booleans())
def test_no_number_beyond_its_bounds_is_accepted(bounds: Bounds, value: Decimal, use_bound: bool) -> None:
    if use_bound and bounds.low is not None:
        value = bounds.low
    assume(not lies_within(value, bounds))
    try:
        recogniser = Recogniser(f"root ::= {number(bounds)}")
    except NoSuchNumber:
        return
    assert not recogniser.accepts(format(value, "f"))


@given(bounds=BOUNDS, value=st.integers(-2100, 2100), tenths=st.integers(0, 9))
def test_numbers_between_integers_within_the_bounds_are_accepted(bounds: Bounds, value: int, tenths: int) -> None:
    fraction = Decimal(value) + Decimal(tenths) / 10
    assume(lies_within(Decimal(value), bounds))
    assume(lies_within(Decimal(value + 1), bounds))
    assert Recogniser(f"root ::= {number(bounds)}").accepts(format(fraction, "f") if tenths else str(value))


@pytest.mark.parametrize(
    "text", ["0", "-1", "12345678901234567890", "01", "+1", "1.", "1e5", "-0.5", "1.5e-3", "1e999"]
)
def test_unbounded_numbers_are_json(text: str) -> None:
    accepted = Recogniser(f"root ::= {number(Bounds())}").accepts(text)
    assert not accepted or isinstance(json.loads(text), int | float)
    assert accepted == (text in ("0", "-1", "1e5", "-0.5", "1.5e-3"))


def test_bounds_that_mean_none_stay_small() -> None:
    assert len(integer(Bounds(Decimal(-9007199254740991), Decimal(9007199254740991)))) < 100
