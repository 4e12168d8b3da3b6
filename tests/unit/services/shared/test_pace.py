import pytest

from services.shared.pace import until_next


@pytest.mark.parametrize(("period", "now", "seconds"), [(2.0, 100.0, 2.0), (2.0, 100.5, 1.5), (2.0, 101.5, 2.5)])
def test_the_next_time_is_a_whole_multiple_of_the_period(period: float, now: float, seconds: float) -> None:
    assert until_next(period, now) == pytest.approx(seconds)


def test_processes_that_began_at_different_times_meet() -> None:
    assert {now + until_next(1.0, now) for now in (7.0, 7.2, 7.4)} == {8.0}


def test_a_moment_that_was_just_missed_does_not_come_at_once() -> None:
    assert until_next(1.0, 7.99) > 0.5
