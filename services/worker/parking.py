"""What is known of sequences that nobody generates from, and which of them to give up first: pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from services.shared.reuse import expected_reuse
from services.worker.blocks import BLOCK_TOKENS, HashedTokens

_MOST_BLOCKS: Final = 65_536


@dataclass(eq=False)
class Parked:
    """A sequence that nobody generates from, and whose cells are kept."""

    sequence_id: int
    known: HashedTokens
    parked_at: float
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


class BlockUses:
    """How often and when each block of parked sequences was shared with a prompt.

    Kept by hash, not by sequence: a beginning that many conversations share stays worth as much whichever of them
    carries it now, and the end of a much used conversation is worth no more than any other end.
    """

    def __init__(self, most_blocks: int = _MOST_BLOCKS) -> None:
        self._most_blocks = most_blocks
        self._uses: dict[bytes, tuple[int, float]] = {}

    def note(self, hashes: Sequence[bytes], *, now: float) -> None:
        """Counts a use of blocks; those not used for longest are forgotten."""
        for name in hashes:
            count, _ = self._uses.pop(name, (0, now))
            self._uses[name] = count + 1, now
        while len(self._uses) > self._most_blocks:
            del self._uses[next(iter(self._uses))]

    def inherit(self, name: bytes, *, earlier: bytes) -> None:
        """Takes over the uses of a partial block that a block continues."""
        if name != earlier and (uses := self._uses.get(earlier)):
            self._uses[name] = max(uses, self._uses.get(name, uses))

    def reuse(self, name: bytes, *, made_at: float, now: float) -> tuple[float, float]:
        """How likely a block is to be used again, and when it was used last, or made."""
        count, used_at = self._uses.get(name, (0, made_at))
        used_at = max(used_at, made_at)
        return expected_reuse(count, now - used_at), used_at


def blocks_within(known: HashedTokens, length: int) -> list[bytes]:
    """Names the blocks of a sequence that hold its first tokens, the last one perhaps only in part."""
    return [known.hash(index) for index in range(-(-length // BLOCK_TOKENS))]


def least_valuable(
    parked: Iterable[Parked], uses: BlockUses, *, block_of: Callable[[Parked], int], now: float
) -> Parked | None:
    """Chooses what to give up: whose block in question is least likely to be used again, then used longest ago.

    All sequences lose as much per cell that is freed, so the chance of reuse alone decides.
    """

    def rank(one: Parked) -> tuple[float, float]:
        return uses.reuse(one.known.hash(block_of(one)), made_at=one.parked_at, now=now)

    return min(parked, key=rank, default=None)
