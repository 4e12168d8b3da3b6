import random

import pytest

from services.worker.cost import ATTENTION_TILE, StepCost, StepShape


def prompt(count: int, *, start: int = 0) -> StepShape:
    return StepShape.of_row(start, count, 1)


def truth(shape: StepShape) -> float:
    """What steps cost on a made-up machine."""
    pair_seconds = 2e-6 if shape.token_count < ATTENTION_TILE else 4e-7
    return 0.015 + 0.005 * shape.token_count + 0.001 * shape.output_count + pair_seconds * shape.pair_count


def learned(shapes: list[StepShape], *, noise: float = 0.0, rounds: int = 1) -> StepCost:
    cost, chance = StepCost(), random.Random(1)
    for _ in range(rounds):
        for shape in shapes:
            cost.observe(shape, truth(shape) * (1 + chance.uniform(-noise, noise)))
    return cost


def expected(cost: StepCost, shape: StepShape) -> float:
    seconds = cost.expected_seconds(shape)
    assert seconds is not None
    return seconds


def test_nothing_is_expected_before_anything_was_seen() -> None:
    assert StepCost().expected_seconds(prompt(8)) is None


def test_a_step_between_two_known_sizes_costs_something_between() -> None:
    cost = StepCost()
    cost.observe(prompt(1), 0.03)
    cost.observe(prompt(64), 1.0)
    assert 0.4 < expected(cost, prompt(32)) < 0.6


def test_a_step_larger_than_any_known_costs_in_proportion() -> None:
    cost = StepCost()
    cost.observe(StepShape(64, 1), 1.0)
    assert expected(cost, StepShape(256, 1)) == pytest.approx(4.0)


def test_a_curve_with_a_jump_keeps_its_jump() -> None:
    cost = StepCost()
    for _ in range(10):
        for size, seconds in ((1, 0.02), (8, 0.12), (9, 0.128), (12, 0.128), (16, 0.15)):
            cost.observe(StepShape(size, size), seconds)
    assert expected(cost, StepShape(12, 12)) == pytest.approx(0.128, rel=0.05)
    assert expected(cost, StepShape(8, 8)) == pytest.approx(0.12, rel=0.05)


def test_depth_is_learned_from_one_long_prompt() -> None:
    shapes = [StepShape(1, 1), StepShape(16, 1), StepShape(64, 1)]
    cost = learned([*shapes, *(prompt(64, start=start) for start in range(0, 6000, 64))], noise=0.05)
    for start in (0, 3000, 6000):
        assert expected(cost, prompt(64, start=start)) == pytest.approx(truth(prompt(64, start=start)), rel=0.12)


def test_depth_learned_at_one_size_holds_at_another() -> None:
    shapes = [StepShape(16, 1), StepShape(64, 1), StepShape(512, 1)]
    cost = learned([*shapes, *(prompt(512, start=start) for start in range(0, 7000, 512))], noise=0.05, rounds=2)
    deep = prompt(64, start=6000)
    assert expected(cost, deep) == pytest.approx(truth(deep), rel=0.2)


def test_small_steps_at_depth_do_not_make_large_ones_look_expensive() -> None:
    cost = learned([StepShape(1, 1), StepShape(16, 1), StepShape(64, 1), prompt(512)])
    for start in range(7000, 7400, 2):
        cost.observe(prompt(2, start=start), truth(prompt(2, start=start)))
    deep = prompt(512, start=7400)
    assert expected(cost, deep) < 1.5 * truth(deep)


def test_a_deep_prompt_gets_a_whole_attention_tile_where_that_fits_and_a_few_tokens_less_would_not() -> None:
    cost = learned([StepShape(1, 1), prompt(64), *(prompt(n, start=6000) for n in (32, 64, 128) for _ in range(9))])
    a_tile, less = prompt(64, start=6000), prompt(60, start=6000)
    assert truth(a_tile) < 0.6 < truth(less)
    assert cost.tokens_within(0.6, beside=StepShape(), start=6000, at_least=4, at_most=512) >= ATTENTION_TILE
    assert cost.tokens_within(0.4, beside=StepShape(), start=6000, at_least=4, at_most=512) < ATTENTION_TILE // 2


def test_a_busy_machine_is_not_taken_for_depth() -> None:
    cost = learned([StepShape(1, 1), StepShape(16, 1), StepShape(64, 1)], rounds=2)
    for start in range(0, 800, 16):
        shape = prompt(16, start=start)
        cost.observe(shape, 4 * truth(shape))
    for start in range(800, 2000, 16):
        cost.observe(prompt(16, start=start), truth(prompt(16, start=start)))
    assert expected(cost, prompt(64, start=6000)) < 2.5 * truth(prompt(64, start=6000))


def test_outputs_cost_extra() -> None:
    shapes = [StepShape(16, 1), StepShape(16, 16), StepShape(64, 1), StepShape(64, 20)]
    cost = learned(shapes, rounds=20)
    assert expected(cost, StepShape(16, 16)) - expected(cost, StepShape(16, 1)) == pytest.approx(0.015, rel=0.3)


def test_one_interrupted_step_does_not_spoil_the_curve() -> None:
    cost = learned([StepShape(64, 1)] * 10)
    cost.observe(StepShape(64, 1), 30.0)
    assert expected(cost, StepShape(64, 1)) < 2 * truth(StepShape(64, 1))


def test_a_machine_that_became_slower_is_noticed() -> None:
    cost = learned([StepShape(8, 8)] * 10)
    for _ in range(20):
        cost.observe(StepShape(8, 8), 2 * truth(StepShape(8, 8)))
    assert expected(cost, StepShape(8, 8)) == pytest.approx(2 * truth(StepShape(8, 8)), rel=0.1)


def test_sizes_that_are_not_run_any_more_become_slower_and_faster_with_those_that_are() -> None:
    busy = 3.0
    cost = StepCost()
    for _ in range(3):
        for size in (1, 4, 16):
            cost.observe(StepShape(size, size), busy * truth(StepShape(size, size)))
    for _ in range(100):
        cost.observe(StepShape(1, 1), truth(StepShape(1, 1)))
    for size in (4, 16):
        slower = expected(cost, StepShape(size, size)) / truth(StepShape(size, size))
        assert slower < 2.5


def test_fewer_tokens_fit_a_budget_the_deeper_they_are_and_the_more_streams_there_are() -> None:
    deep = [prompt(size, start=n) for n in range(0, 6000, 200) for size in (32, 64)]
    cost = learned([StepShape(1, 1), StepShape(16, 1), prompt(64), *deep])

    def fitting(start: int, streams: int) -> int:
        beside = StepShape(streams, streams, streams * 1000)
        return cost.tokens_within(0.25, beside=beside, start=start, at_least=4, at_most=512)

    assert fitting(0, 1) > fitting(6000, 1) > fitting(6000, 8)
    for start in (0, 3000, 6000):
        step = StepShape(1, 1, 1000) + prompt(fitting(start, 1), start=start)
        assert truth(step) == pytest.approx(0.25, rel=0.15)


def test_at_least_the_minimum_is_planned_on_a_slow_machine() -> None:
    cost = StepCost()
    cost.observe(prompt(1), 5.0)
    assert cost.tokens_within(0.25, beside=StepShape(), start=0, at_least=4, at_most=512) == 4


def test_without_measurements_the_maximum_is_planned() -> None:
    assert StepCost().tokens_within(0.25, beside=StepShape(), start=0, at_least=4, at_most=512) == 512


def test_a_step_is_hung_after_ten_times_what_is_expected_but_not_before_thirty_seconds() -> None:
    cost = StepCost()
    cost.observe(StepShape(512, 1), 6.0)
    assert cost.hang_seconds(StepShape(512, 1)) == pytest.approx(60.0)
    cost.observe(StepShape(1, 1), 0.03)
    assert cost.hang_seconds(StepShape(1, 1)) == 30.0
