"""Decides what a step computes and who gets a slot: pure functions over what the engine knows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

SIBLING_MIN_TOKENS: Final = 64
_BATCH_CLASS_PENALTY_SECONDS: Final = 120.0


class Work(Protocol):
    """What the scheduler needs to know of a generation."""

    @property
    def pending_count(self) -> int:
        """Tokens that must be computed before the next one can be sampled; 1 while decoding."""
        ...

    @property
    def is_decoding(self) -> bool:
        """Whether its prompt is computed."""
        ...

    @property
    def is_batch(self) -> bool:
        """Whether nobody waits for its answer."""
        ...

    @property
    def arrived_at(self) -> float:
        """When it arrived, in seconds of a monotonic clock."""
        ...


WorkT = TypeVar("WorkT", bound=Work)


@dataclass(frozen=True)
class Chunk(Generic[WorkT]):
    """The next tokens of a generation that a step computes."""

    generation: WorkT
    token_count: int


def plan_step(
    running: Iterable[WorkT], *, now: float, batch_tokens: int, prefill_tokens: int, prefill_rate: float
) -> list[Chunk[WorkT]]:
    """Spends one step's tokens: decoding first, so that a long prompt never stalls an open stream.

    `prefill_tokens` bounds what prompts get while somebody decodes.
    """
    works = list(running)
    plan = [Chunk(work, 1) for work in works if work.is_decoding][:batch_tokens]
    left = min(prefill_tokens, batch_tokens - len(plan))
    for work in in_order((work for work in works if not work.is_decoding), now=now, prefill_rate=prefill_rate):
        if left <= 0:
            break
        count = min(work.pending_count, left)
        plan.append(Chunk(work, count))
        left -= count
    return plan


def in_order(waiting: Iterable[WorkT], *, now: float, prefill_rate: float) -> list[WorkT]:
    """Sorts by when work should go on: interactive before batch, short before long, and age outweighs both in time."""

    def score(work: WorkT) -> float:
        needed = work.pending_count / max(prefill_rate, 1.0)
        penalty = _BATCH_CLASS_PENALTY_SECONDS if work.is_batch else 0.0
        return needed + penalty - (now - work.arrived_at)

    return sorted(waiting, key=score)


def shared_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Counts the tokens that two sequences have in common at their beginning."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while low < high:  # equal up to low, different somewhere before high
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def waits_for_sibling(reusable_count: int, promised_count: int, *, has_waited: bool) -> bool:
    """Says whether a request should wait for tokens that a running one is about to compute, and then fork.

    `reusable_count` tokens could be reused now, `promised_count` once the running prompt is computed. Who has waited
    waits to the end: leaving a little earlier would compute the last shared tokens twice.
    """
    return promised_count - reusable_count >= (1 if has_waited else SIBLING_MIN_TOKENS)
