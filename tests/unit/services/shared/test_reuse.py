from hypothesis import given
from hypothesis import strategies as st

from services.shared.reuse import expected_reuse


@given(st.integers(0, 10_000), st.floats(0, 1e7))
def test_more_uses_count_more_and_longer_rest_less(use_count: int, idle_seconds: float) -> None:
    reuse = expected_reuse(use_count, idle_seconds)
    assert reuse > 0
    assert expected_reuse(use_count + 1, idle_seconds) > reuse > expected_reuse(use_count, idle_seconds + 10.0)


def test_what_rested_twice_as_long_is_worth_half() -> None:
    assert expected_reuse(0, 0.0) == 1.0
    assert 0.5 <= expected_reuse(3, 7200.0) / expected_reuse(3, 3600.0) < 0.51


def test_each_further_use_says_less() -> None:
    assert expected_reuse(1, 0.0) - expected_reuse(0, 0.0) > expected_reuse(9, 0.0) - expected_reuse(8, 0.0)
