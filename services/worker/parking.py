"""What is known of sequences that nobody generates from, and which of them to give up first: pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from services.shared.reuse import expected_reuse
from services.worker.blocks import HashedTokens


@dataclass(eq=False)
class Parked:
    """A sequence that nobody generates from, and whose cells are kept."""

    sequence_id: int
    known: HashedTokens
    last_used_at: float
    use_count: int = 0
    tried_block_count: int = 0
    """Blocks, from the first, that the store was given or had."""
    fetched_from: int | None = None
    """Where the tokens begin that were just brought from the store, if any were."""
    extends_running: bool = False
    """Whether the tokens before those were shared with a running sequence."""


@dataclass(frozen=True)
class Match:
    """A sequence that begins like a prompt."""

    sequence_id: int
    length: int


@dataclass(frozen=True)
class CacheSources:
    """How many of a prompt's tokens were there already, by where they came from."""

    parked: int = 0
    running: int = 0
    ram: int = 0

    @property
    def count(self) -> int:
        """All of them."""
        return self.parked + self.running + self.ram


def sources(match: Match, parked: Parked | None) -> CacheSources:
    """Says where the tokens of a match come from; `parked` is None if the sequence runs."""
    if parked is None:
        return CacheSources(running=match.length)
    fetched = 0 if parked.fetched_from is None else max(0, match.length - parked.fetched_from)
    rest = match.length - fetched
    if parked.extends_running:
        return CacheSources(running=rest, ram=fetched)
    return CacheSources(parked=rest, ram=fetched)


def least_valuable(parked: Iterable[Parked], *, now: float) -> Parked | None:
    """Chooses what to give up: what is least likely to be used again, then what was used longest ago.

    All sequences lose as much per cell that is freed, so the chance of reuse alone decides.
    """
    return min(
        parked,
        key=lambda one: (expected_reuse(one.use_count, now - one.last_used_at), one.last_used_at),
        default=None,
    )
