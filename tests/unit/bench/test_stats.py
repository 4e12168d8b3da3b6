import pytest

from bench.client import Timing
from bench.stats import Spread, gaps_within, quantile, ratios, total_rate


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 5), (0.9, 9), (0.99, 10), (1.0, 10)])
def test_a_quantile_is_the_least_value_that_enough_do_not_exceed(share: float, expected: float) -> None:
    assert quantile(range(1, 11), share) == expected


def test_a_quantile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_a_spread_is_least_median_and_most() -> None:
    assert Spread.of([3, 1, 2, 10]) == Spread(1, 2.5, 10)


def test_ratios_pair_rounds_and_leave_out_division_by_zero() -> None:
    assert ratios([2, 3, 4], [1, 0]) == [2]


def test_the_total_rate_spans_the_first_token_to_the_last_end() -> None:
    first = Timing(started_at=0, arrivals=[1.0, 2.0], ended_at=5.0, completion_tokens=11)
    second = Timing(started_at=0, arrivals=[3.0], ended_at=6.0, completion_tokens=16)
    assert total_rate([first, second]) == 5.0


def test_gaps_that_begin_before_or_end_after_a_span_count_whole() -> None:
    assert gaps_within([0, 2, 3, 9, 10], start=1, end=5) == [2, 1, 6]
    assert gaps_within([0, 2, 3, 9, 10], start=9.5, end=20) == [1]
