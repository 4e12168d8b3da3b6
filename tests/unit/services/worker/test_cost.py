from services.worker.cost import StepCost


def test_nothing_is_expected_before_anything_was_seen() -> None:
    assert StepCost().expected_seconds(8) is None


def test_a_step_between_two_known_sizes_costs_something_between() -> None:
    cost = StepCost()
    cost.observe(1, 0.03)
    cost.observe(64, 1.0)
    expected = cost.expected_seconds(32)
    assert expected is not None
    assert 0.4 < expected < 0.6


def test_a_step_larger_than_any_known_costs_in_proportion() -> None:
    cost = StepCost()
    cost.observe(64, 1.0)
    assert cost.expected_seconds(256) == 4.0


def test_the_tokens_that_fit_a_budget_follow_the_curve() -> None:
    cost = StepCost()
    cost.observe(1, 0.02)
    cost.observe(64, 0.64)
    assert 20 <= cost.tokens_within(0.25, at_least=16, at_most=512) <= 26


def test_at_least_the_minimum_is_planned_on_a_slow_machine() -> None:
    cost = StepCost()
    cost.observe(1, 5.0)
    assert cost.tokens_within(0.25, at_least=16, at_most=512) == 16


def test_without_measurements_the_maximum_is_planned() -> None:
    assert StepCost().tokens_within(0.25, at_least=16, at_most=512) == 512


def test_a_step_is_hung_after_ten_times_what_is_expected_but_not_before_thirty_seconds() -> None:
    cost = StepCost()
    cost.observe(512, 6.0)
    assert cost.hang_seconds(512) == 60.0
    assert cost.hang_seconds(1) == 60.0
    cost.observe(1, 0.03)
    assert cost.hang_seconds(1) == 30.0
