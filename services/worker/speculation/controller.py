"""Decides how many tokens to guess for which stream, so that no guess costs more than it brings. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.worker.cost import StepCost, StepShape

_WORTH_IT: Final = 1.05  # estimates are off by some percent: what seems to win less than that may lose


@dataclass(frozen=True)
class Proposal:
    """Tokens that could be guessed for one stream."""

    chances: Sequence[float] = ()
    """For each the chance that it and all before it are right: never rising."""
    depth: int = 0
    """Cells that each attends to."""
    seconds_per_token: float = 0.0
    """What making the guess costs beside the step."""


def choose_lengths(
    proposals: Sequence[Proposal], *, step: StepShape, streams: StepShape, cost: StepCost, most: int
) -> list[int]:
    """Says how many tokens of each proposal to verify in a step: those that bring most tokens a second, or none.

    At most `most` in all.
    `step` is all that the step does without guesses, `streams` the part of it that decodes one token a stream. The
    streams are charged what they cost alone, and guesses what they add to this step, beside a prompt or not.
    """
    lengths = [0] * len(proposals)
    alone, whole = cost.expected_seconds(streams), cost.expected_seconds(step)
    if alone is None or whole is None or alone <= 0:
        return lengths
    # Whatever the number of guesses, the likeliest are the best; in a proposal they come in order.
    ranked = sorted((-chance, index) for index, proposal in enumerate(proposals) for chance in proposal.chances)[:most]
    best_count, best_rate = 0, _WORTH_IT * streams.output_count / alone
    tokens, guessing, pairs = float(streams.output_count), 0.0, step.pair_count
    for count, (unlikelihood, index) in enumerate(ranked, 1):
        tokens -= unlikelihood
        guessing += proposals[index].seconds_per_token
        pairs += proposals[index].depth
        together = cost.seconds_of(step.token_count + count, step.output_count + count, pairs)
        seconds = alone + guessing + max(0.0, together - whole)  # a measured curve may fall where it is noisy
        if tokens > best_rate * seconds:
            best_count, best_rate = count, tokens / seconds
    for _, index in ranked[:best_count]:
        lengths[index] += 1
    return lengths


def seconds_saved(proposal: Proposal, length: int, *, stream: StepShape, cost: StepCost) -> float:
    """What guessing so many tokens of a lone stream saves for each token that comes out."""
    alone = cost.expected_seconds(stream) or 0.0
    guess = StepShape(length, length, length * proposal.depth)
    together = (cost.expected_seconds(stream + guess) or 0.0) + length * proposal.seconds_per_token
    return alone - together / (1 + sum(proposal.chances[:length]))
