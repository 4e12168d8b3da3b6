"""Whole answers on a made-up clock: what lookup and controller together bring on a processor."""

import random
from collections.abc import Sequence

import pytest

from services.worker.cost import StepCost, StepShape
from services.worker.speculation import Speculation, SpeculationOptions
from services.worker.speculation.controller import Proposal, choose_lengths
from tests.unit.services.worker.speculation.test_controller import CPU, cost_of

CPU_LARGER = {1: 0.035, 2: 0.058, 3: 0.089, 4: 0.111, 6: 0.174, 8: 0.255, 12: 0.313, 16: 0.341, 24: 0.515, 32: 0.533}
"""Measured: Qwen2.5-Coder-1.5B on two cores."""


def speedup(prompt: Sequence[int], answer: Sequence[int], cost: StepCost, *, others: int = 0) -> float:
    """Seconds of plain steps over seconds with guesses, in a step that `others` share."""
    tokens = [*prompt, answer[0]]
    speculation = Speculation(SpeculationOptions("lookup", 16), tokens)
    streams = StepShape(1 + others, 1 + others)
    seconds, said = 0.0, 1
    while said < len(answer):
        proposal = Proposal(speculation.lookup_chances(16))
        (length,) = choose_lengths([proposal], step=streams, streams=streams, cost=cost, most=64)
        guess = speculation.lookup().guess(length)
        seconds += cost.seconds_of(1 + others + length, 1 + others + length, 0)
        for wanted, guessed in zip(answer[said:], [*guess, None], strict=False):
            tokens.append(wanted)
            said += 1
            if wanted != guessed:
                break
    return len(answer) * cost.seconds_of(1 + others, 1 + others, 0) / seconds


def prose(seed: int, count: int = 1500) -> list[int]:
    """Words as they come: few often, most seldom, many in pairs that belong together."""
    chance = random.Random(seed)
    words: list[int] = []
    while len(words) < count:
        word = min(int(chance.paretovariate(0.8)), 3000)
        words += [word, word + 5000] if word % 3 == 0 else [word]
    return words


def edited(text: Sequence[int]) -> list[int]:
    """The text with one word in fifty replaced."""
    chance = random.Random(7)
    return [word + 10_000 if chance.random() < 0.02 else word for word in text]


@pytest.mark.parametrize(("curve", "wanted"), [(CPU, 1.25), (CPU_LARGER, 1.15)], ids=["0.5B", "1.5B"])
@pytest.mark.parametrize("others", [0, 3])
def test_an_edit_that_copies_gains(curve: dict[int, float], wanted: float, others: int) -> None:
    file = prose(1)
    assert speedup(file, edited(file), cost_of(curve), others=others) >= wanted


@pytest.mark.parametrize("curve", [CPU, CPU_LARGER], ids=["0.5B", "1.5B"])
@pytest.mark.parametrize("seed", range(5))
def test_prose_that_repeats_nothing_loses_next_to_nothing(curve: dict[int, float], seed: int) -> None:
    assert speedup(prose(100 + seed, 50), prose(seed), cost_of(curve)) >= 0.985
