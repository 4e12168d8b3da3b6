import pytest

from bench.client import Timing
from bench.stats import Spread, gaps_within, quantile, rate_together, ratios


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


def test_the_rate_together_counts_only_while_all_streams_decode() -> None:
    early = Timing(arrivals=[1.0, 2.0, 3.0, 4.0, 5.0], completion_tokens=5)
    late = Timing(arrivals=[3.0, 4.0, 5.0, 6.0, 7.0, 8.0], completion_tokens=11)
    assert rate_together([early, late]) == (2 + 2 * 2) / 2


def test_the_rate_together_does_not_depend_on_how_many_tokens_a_server_sends_at_once() -> None:
    single = [Timing(arrivals=[1 + 0.1 * n for n in range(41)], completion_tokens=41) for _ in range(2)]
    merged = [Timing(arrivals=[1 + 0.4 * n + late for n in range(11)], completion_tokens=41) for late in (0.0, 0.01)]
    assert rate_together(single) == pytest.approx(20)
    assert rate_together(merged) == pytest.approx(20)


def test_the_rate_together_counts_the_tokens_of_a_chunk_by_its_text() -> None:
    """Four tokens at once while both decode, one at a time when one is left."""
    arrivals, sizes = [1.0, 1.4, 1.8, 1.9, 2.0, 2.1, 2.2], [5, 20, 20, 5, 5, 5, 5]
    longer = Timing(arrivals=arrivals, sizes=sizes, completion_tokens=13)
    shorter = Timing(arrivals=[1.0, 1.4, 1.8], sizes=[5, 20, 20], completion_tokens=9)
    assert rate_together([longer, shorter]) == pytest.approx(20)


def test_of_one_stream_the_rate_together_is_that_behind_its_first_token() -> None:
    assert rate_together([Timing(arrivals=[1.0, 2.0, 3.0], completion_tokens=3)]) == 1.0


def test_gaps_that_begin_before_or_end_after_a_span_count_whole() -> None:
    assert gaps_within([0, 2, 3, 9, 10], start=1, end=5) == [2, 1, 6]
    assert gaps_within([0, 2, 3, 9, 10], start=9.5, end=20) == [1]
