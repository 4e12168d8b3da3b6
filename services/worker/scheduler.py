"""Decides what a step computes and who gets a slot: pure functions over what the engine knows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Generic, Protocol, TypeVar

from services.worker.cost import ATTENTION_TILE, StepCost, StepShape, total

SIBLING_MIN_TOKENS: Final = 64
MIN_PREFILL_TOKENS: Final = 4
"""What a prompt gets in a step even where the budget is spent, so that it comes to an end."""
LONE_PREFILL_TOKENS: Final = ATTENTION_TILE
"""The same where nobody decodes: with fewer, a deep prompt costs several times more a token."""
_BATCH_PATIENCE_SECONDS: Final = 120.0
"""So long batch work stands behind all interactive work, however long that takes; then it counts as equal."""


class Work(Protocol):
    """What the scheduler needs to know of a generation."""

    @property
    def pending_count(self) -> int:
        """Tokens that must be computed before the next one can be sampled; 1 while decoding."""
        ...

    @property
    def computed_count(self) -> int:
        """Tokens that were computed."""
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
    """The next tokens of a generation that a step computes: those that are known, then a draft of those to come.

    Made for one step: what it says of the generation is as of then.
    """

    generation: WorkT
    known_count: int
    draft: Sequence[int] = ()

    @property
    def token_count(self) -> int:
        """Tokens to compute."""
        return self.known_count + len(self.draft)

    @cached_property
    def output_count(self) -> int:
        """Tokens whose logits are needed: the last known one, if nothing is pending behind it, and the draft."""
        return 1 + len(self.draft) if self.known_count == self.generation.pending_count else 0

    @cached_property
    def shape(self) -> StepShape:
        """What it adds to a step."""
        return StepShape.of_row(self.generation.computed_count, self.token_count, self.output_count)


@dataclass(frozen=True)
class StepLimits:
    """What one step may take."""

    tokens: int
    seconds: float
    """Prompts get what is left of it beside the streams."""


def plan_step(
    running: Iterable[WorkT], *, now: float, limits: StepLimits, cost: StepCost,
    drafts: Mapping[WorkT, Sequence[int]] | None = None,
) -> list[Chunk[WorkT]]:  # fmt: skip
    """Spends one step: decoding first, so that a long prompt never stalls an open stream."""
    drafts = drafts or {}
    plan: list[Chunk[WorkT]] = []
    prompts: list[WorkT] = []
    for work in running:
        if work.is_decoding:
            plan.append(Chunk(work, 1, drafts.get(work, ())))
        else:
            prompts.append(work)
    plan = plan[: limits.tokens]
    if not prompts:
        return plan
    shape = total(chunk.shape for chunk in plan)
    at_least = MIN_PREFILL_TOKENS if plan else LONE_PREFILL_TOKENS
    for work in in_order(prompts, now=now, prefill_rate=cost.prefill_tokens_per_second):
        most = min(work.pending_count, limits.tokens - shape.token_count)
        count = cost.tokens_within(
            limits.seconds, beside=shape, start=work.computed_count, at_least=at_least, at_most=most
        )
        if count <= 0:
            break
        chunk = Chunk(work, in_whole_tiles(count, beside=shape.token_count, pending=work.pending_count))
        plan.append(chunk)
        shape += chunk.shape
        at_least = 0
    return plan


def in_whole_tiles(count: int, *, beside: int, pending: int) -> int:
    """Shortens a chunk so that attention computes no part of a tile, and leaves no rest that is less than one.

    A last step of 43 tokens behind 10,000 cells took as long as one of 128 (0.5B, two cores).
    """
    if count == pending:
        return count
    whole = (beside + count) // ATTENTION_TILE * ATTENTION_TILE - beside
    if whole > ATTENTION_TILE and pending - whole < ATTENTION_TILE:
        whole -= ATTENTION_TILE
    return whole if whole > 0 else count


def in_order(waiting: Iterable[WorkT], *, now: float, prefill_rate: float) -> list[WorkT]:
    """Sorts by when work should go on: interactive before batch, short before long, and age outweighs both in time."""

    def score(work: WorkT) -> tuple[bool, float]:
        age = now - work.arrived_at
        return work.is_batch and age < _BATCH_PATIENCE_SECONDS, work.pending_count / max(prefill_rate, 1.0) - age

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
