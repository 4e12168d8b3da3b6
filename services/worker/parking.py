"""Which finished conversations keep their KV state, and which is worth the most to a new prompt: pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.worker.scheduler import shared_length


@dataclass(frozen=True)
class Parked:
    """A sequence that nobody generates from, and whose cells are kept."""

    sequence_id: int
    tokens: Sequence[int]
    last_used_at: float


@dataclass(frozen=True)
class Match:
    """A sequence that begins like a prompt."""

    sequence_id: int
    length: int


def longest_match(tokens: Sequence[int], candidates: Iterable[tuple[int, Sequence[int]]]) -> Match | None:
    """Finds the sequence whose beginning covers most of a prompt; the prompt's last token is always left to compute."""
    best: Match | None = None
    for sequence_id, known in candidates:
        length = min(shared_length(tokens, known), len(tokens) - 1)
        if length > 0 and (best is None or length > best.length):
            best = Match(sequence_id, length)
    return best


def made_redundant(new: Parked, parked: Iterable[Parked]) -> list[Parked]:
    """Lists the parked sequences that are a beginning of a new one, and so add nothing to it."""
    return [
        old
        for old in parked
        if len(old.tokens) <= len(new.tokens) and shared_length(old.tokens, new.tokens) == len(old.tokens)
    ]


def least_valuable(parked: Iterable[Parked]) -> Parked | None:
    """Chooses what to drop: the one that was used longest ago."""
    return min(parked, key=lambda item: item.last_used_at, default=None)
