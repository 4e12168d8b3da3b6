"""A long prompt beside a stream on a made-up clock: gaps stay short, and the prompt gets what the budget allows."""

import random

import pytest

from services.worker.cost import ATTENTION_TILE, StepCost, StepShape, total
from services.worker.scheduler import StepLimits, plan_step
from tests.unit.services.worker.test_scheduler import FakeWork

BUDGET = 0.25
CURVE = ((1, 0.023), (2, 0.041), (4, 0.058), (8, 0.120), (16, 0.150), (32, 0.272), (64, 0.490), (512, 2.65))
"""Measured: Qwen2.5-Coder-0.5B on two cores."""
PAIR_SECONDS, TILED_PAIR_SECONDS = 7.5e-6, 1.6e-6


def truth(shape: StepShape) -> float:
    below = max(point for point in CURVE if point[0] <= shape.token_count)
    above = min((point for point in CURVE if point[0] >= shape.token_count), default=CURVE[-1])
    share = (shape.token_count - below[0]) / max(1, above[0] - below[0])
    pair_seconds = PAIR_SECONDS if shape.token_count < ATTENTION_TILE else TILED_PAIR_SECONDS
    return below[1] + share * (above[1] - below[1]) + pair_seconds * shape.pair_count


def allowed_seconds(prompt_tokens: int, streams: StepShape) -> float:
    """What the prompt takes if each step takes as much of it as truly fits."""
    start, seconds = 0, 0.0
    while start < prompt_tokens:
        fitting = max(
            count
            for count in range(1, 65)
            if truth(streams + StepShape.of_row(start, count, 0)) <= BUDGET or count == 1
        )
        seconds += truth(streams + StepShape.of_row(start, fitting, 0))
        start += fitting
    return seconds


@pytest.mark.parametrize("stream_count", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_prompt_of_7000_tokens_keeps_no_stream_waiting_and_gets_nine_tenths_of_what_fits(
    stream_count: int, seed: int
) -> None:
    chance, cost = random.Random(seed), StepCost()
    for size, _ in CURVE[:-1]:
        cost.observe(StepShape(size, 1), truth(StepShape(size, 1)) * chance.uniform(0.9, 1.2))
    streams = [FakeWork(f"s{n}", 1, is_decoding=True, computed_count=300) for n in range(stream_count)]
    prompt, gaps = FakeWork("prompt", 7000), []
    while prompt.pending_count:
        plan = plan_step([*streams, prompt], now=0.0, limits=StepLimits(512, BUDGET), cost=cost)
        shape = total(chunk.shape for chunk in plan)
        interrupted = 3.0 if chance.random() < 0.005 else 1.0
        gaps.append(truth(shape) * chance.uniform(0.9, 1.1) * interrupted)
        cost.observe(shape, gaps[-1])
        prompt.computed_count += plan[-1].token_count
        prompt.pending_count -= plan[-1].token_count
    decoding = total(StepShape.of_row(300, 1, 1) for _ in streams)
    assert sorted(gaps)[int(0.99 * len(gaps))] <= 0.5
    assert allowed_seconds(7000, decoding) / sum(gaps) >= 0.9
