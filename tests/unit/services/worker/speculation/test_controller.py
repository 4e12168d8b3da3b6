from hypothesis import given
from hypothesis import strategies as st

from services.worker.cost import StepCost, StepShape, total
from services.worker.speculation.acceptance import DraftAcceptance, MatchAcceptance
from services.worker.speculation.controller import Proposal, choose_lengths, seconds_saved

CPU = {1: 0.023, 2: 0.041, 3: 0.050, 4: 0.058, 6: 0.091, 8: 0.120, 12: 0.128, 16: 0.150, 24: 0.232, 32: 0.272}
"""Measured: Qwen2.5-Coder-0.5B on two cores."""
GPU = {1: 0.010, 2: 0.0102, 4: 0.0104, 8: 0.011, 16: 0.012, 32: 0.015}


def cost_of(curve: dict[int, float]) -> StepCost:
    cost = StepCost()
    for _ in range(20):
        for size, seconds in curve.items():
            cost.observe(StepShape(size, size), seconds)
    return cost


def falling(probability: float, count: int = 16) -> list[float]:
    return [probability**length for length in range(1, count + 1)]


def lengths(
    curve: dict[int, float], *proposals: Proposal, beside: StepShape | None = None, most: int = 64
) -> list[int]:
    streams = StepShape(len(proposals), len(proposals))
    step = streams + (beside or StepShape())
    return choose_lengths(proposals, step=step, streams=streams, cost=cost_of(curve), most=most)


@given(
    st.lists(st.lists(st.floats(0, 1), max_size=16), min_size=1, max_size=4),
    st.dictionaries(st.integers(1, 32), st.floats(0.001, 1), min_size=1),
    st.integers(0, 200),
)
def test_nothing_is_guessed_that_loses_by_the_estimates(
    probabilities: list[list[float]], curve: dict[int, float], prompt_tokens: int
) -> None:
    proposals = [Proposal(_cumulated(row)) for row in probabilities]
    cost = cost_of(curve)
    streams = StepShape(len(proposals), len(proposals))
    step = streams + StepShape(prompt_tokens, 0)
    chosen = choose_lengths(proposals, step=step, streams=streams, cost=cost, most=64)
    if any(chosen):
        guesses = StepShape(sum(chosen), sum(chosen))
        alone, whole, guessed = (cost.expected_seconds(shape) or 0.0 for shape in (streams, step, step + guesses))
        brought = sum(sum(row.chances[:length]) for row, length in zip(proposals, chosen, strict=True))
        assert (len(proposals) + brought) / (alone + max(0.0, guessed - whole)) > len(proposals) / alone


def _cumulated(probabilities: list[float]) -> list[float]:
    chances, chance = [], 1.0
    for probability in probabilities:
        chance *= probability
        chances.append(chance)
    return chances


def test_unlikely_guesses_are_not_made_on_a_processor_but_are_on_a_graphics_card() -> None:
    doubtful = Proposal(falling(0.4))
    assert lengths(CPU, doubtful) == [0]
    assert lengths(GPU, doubtful)[0] >= 2


def test_a_copy_is_guessed_far_ahead() -> None:
    assert lengths(CPU, Proposal(falling(0.98)))[0] >= 11


def test_a_length_in_a_costly_place_of_the_curve_is_passed_over() -> None:
    plateau = {1: 0.02, 2: 0.08, 8: 0.08, 16: 0.3}
    assert lengths(plateau, Proposal(falling(0.97))) == [7]


def test_the_likelier_stream_gets_the_guesses() -> None:
    sure, doubtful = Proposal(falling(0.97)), Proposal(falling(0.3))
    first, second = lengths(CPU, doubtful, sure)
    assert first == 0
    assert second > 4


def test_guesses_of_several_streams_share_the_step() -> None:
    both = lengths(CPU, Proposal(falling(0.97)), Proposal(falling(0.97)))
    assert all(length >= 4 for length in both)
    assert sum(lengths(GPU, Proposal(falling(0.99)), Proposal(falling(0.99)), most=5)) == 5


def test_beside_a_prompt_guesses_cost_what_prefilling_costs() -> None:
    assert lengths(CPU, Proposal(falling(0.5)))[0] == 0
    assert lengths(CPU, Proposal(falling(0.5)), beside=StepShape(32, 0))[0] > 0


def test_a_draft_that_costs_as_much_as_it_brings_is_not_made() -> None:
    assert lengths(GPU, Proposal(falling(0.8), seconds_per_token=0.001))[0] >= 3
    assert lengths(GPU, Proposal(falling(0.8), seconds_per_token=0.0105)) == [0]


def test_what_guessing_saves_is_the_difference_to_plain_steps() -> None:
    cost = cost_of({1: 0.02, 2: 0.022})
    saved = seconds_saved(Proposal([0.9]), 1, stream=StepShape(1, 1), cost=cost)
    assert abs(saved - (0.02 - 0.022 / 1.9)) < 1e-3


def test_without_measurements_nothing_is_guessed() -> None:
    shape = StepShape(1, 1)
    assert choose_lengths([Proposal([1.0])], step=shape, streams=shape, cost=StepCost(), most=9) == [0]


def test_chances_never_rise_and_follow_what_was_seen() -> None:
    acceptance = MatchAcceptance()
    for _ in range(30):
        acceptance.observe(3, was_right=False)
        acceptance.observe(20, was_right=True)
    chances = acceptance.chances(3, 20)
    assert chances == sorted(chances, reverse=True)
    assert chances[0] < 0.1
    assert acceptance.chances(20, 1)[0] > 0.9


def test_a_draft_model_that_fails_is_given_up_and_tried_again_much_later() -> None:
    acceptance = DraftAcceptance()
    for _ in range(20):
        acceptance.observe(4, 0)
    assert acceptance.chances(1)[0] < 0.3
    for _ in range(100):
        acceptance.observe_plain_step()
    assert acceptance.chances(1)[0] < 0.5
    for _ in range(1000):
        acceptance.observe_plain_step()
    assert acceptance.chances(1)[0] > 0.7


def test_shapes_add_up() -> None:
    assert total([StepShape(1, 1, 5), StepShape(2, 0, 7)]) == StepShape(3, 1, 12)
