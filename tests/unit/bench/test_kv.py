from types import SimpleNamespace

import pytest

from bench.kv import Copied, Longest, Streamed, _copies, _cost
from tests.fakes.worker_engine import Said


def streamed(
    gap_seconds: float, count: int, *, pause: float = 0.0, saved: tuple[float, float] | None = None
) -> Streamed:
    times = [number * gap_seconds for number in range(count)]
    return Streamed(Said(SimpleNamespace(), times=times), pause, saved)


def test_the_longest_call_is_noted_and_its_result_handed_on() -> None:
    timed = Longest(lambda value, *, more: value + more)
    assert timed(1, more=2) == 3
    assert timed.seconds > 0


def test_a_rate_is_that_of_the_tokens_within_a_span() -> None:
    stream = streamed(0.1, 101)
    assert stream.rate == pytest.approx(10)
    assert stream.rate_between(2.05, 4.05) == pytest.approx(10)
    assert stream.rate_between(20, 30) == 0
    assert stream.longest_gap_seconds == pytest.approx(0.1)


def test_goals_stand_beside_the_numbers() -> None:
    fast, slow = Copied(2_000_000_000, 1.0, 0.5, 0.004), Copied(2_000_000_000, 2.5, 0.5, 0.004)
    assert "out 2.00 GB/s, in 4.00 GB/s (goal reached: 1)" in _copies("f16", 1000, fast)
    assert "out 0.80 GB/s, in 4.00 GB/s (goal missed: 1)" in _copies("f16", 1000, slow)
    without, saving = streamed(0.1, 41), streamed(0.125, 41, pause=0.03, saved=(0.0, 2.0))
    said = _cost("f16", 1000, 41, [(without, saving)])
    assert "over that without 0.800 [0.800, 0.800] (goal missed: 0.97)" in said
    assert "longest pause of a step 30.0 ms (goal missed: 20)" in said
    assert "longest step 125 ms, without 100; 10.0 t/s" in said
