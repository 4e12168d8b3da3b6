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
_END_STRETCH: Final = 1.25
"""How much longer a step may take that ends a prompt where nobody decodes: another one would read all weights again."""
BATCH_PATIENCE_SECONDS: Final = 600.0
"""So long batch work stands behind all interactive work; then it counts as equal. A CPU may read a main request's first
prompt for several minutes, and where agents work there are pauses. A summary that a session waits for waits with it."""
MOST_DELAY_SECONDS: Final = 0.25
"""How much later an interactive request may end for the batch work beside it, all in all: about a step."""


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

    @property
    def delayed_seconds(self) -> float:
        """How much longer its steps took so far for the batch work beside it."""
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
    """Spends one step: decoding first, so that a long prompt never stalls an open stream.

    Batch work beside interactive work may delay that by `MOST_DELAY_SECONDS` in all: enough for a title on a GPU, for
    its rows beside a prompt on a CPU.
    """
    urgent: list[WorkT] = []
    batch: list[WorkT] = []
    for work in running:
        (batch if stands_back(work, now=now) else urgent).append(work)
    step = _Step[WorkT](limits, cost, now)
    if not urgent:
        return step.planned(batch, drafts or {})
    step.planned(urgent, drafts or {})
    if batch:
        step.fill_up(batch, MOST_DELAY_SECONDS - max(work.delayed_seconds for work in urgent))
    return step.plan


def delay_seconds(plan: Iterable[Chunk[WorkT]], *, now: float, cost: StepCost) -> float:
    """How much longer a step takes for the batch work in it, if there is interactive work to be delayed."""
    batch, urgent = StepShape(), StepShape()
    for chunk in plan:
        if stands_back(chunk.generation, now=now):
            batch += chunk.shape
        else:
            urgent += chunk.shape
    if not batch.token_count or not urgent.token_count:
        return 0.0
    together, alone = cost.expected_seconds(urgent + batch), cost.expected_seconds(urgent)
    return 0.0 if together is None or alone is None else max(0.0, together - alone)


class _Step(Generic[WorkT]):
    """A step that is being planned."""

    def __init__(self, limits: StepLimits, cost: StepCost, now: float) -> None:
        self._limits, self._cost, self._now = limits, cost, now
        self.plan: list[Chunk[WorkT]] = []
        self._shape = StepShape()

    def planned(self, works: Iterable[WorkT], drafts: Mapping[WorkT, Sequence[int]]) -> list[Chunk[WorkT]]:
        """Takes all that decode, then as much of the prompts as fits."""
        decoding, prompts = _apart(works)
        self.plan = [Chunk(work, 1, drafts.get(work, ())) for work in decoding][: self._limits.tokens]
        if prompts:
            self._shape = total(chunk.shape for chunk in self.plan)
            at_least = MIN_PREFILL_TOKENS if self.plan else LONE_PREFILL_TOKENS
            self._add_prompts(prompts, self._limits.seconds, at_least=at_least)
        return self.plan

    def fill_up(self, works: Iterable[WorkT], spare_seconds: float) -> None:
        """Adds what makes the step so much longer at most."""
        if spare_seconds <= 0:
            return
        decoding, prompts = _apart(works)
        self._shape = total(chunk.shape for chunk in self.plan)
        seconds = spare_seconds + (self._cost.expected_seconds(self._shape) or 0.0)
        for work in decoding[: self._limits.tokens - self._shape.token_count]:
            chunk = Chunk(work, 1)
            if (self._cost.expected_seconds(self._shape + chunk.shape) or 0.0) > seconds:
                return
            self._add(chunk)
        self._add_prompts(prompts, seconds, at_least=0)

    def _add_prompts(self, prompts: list[WorkT], seconds: float, *, at_least: int) -> None:
        for work in in_order(prompts, now=self._now, prefill_rate=self._cost.prefill_tokens_per_second):
            count = self._fitting(work, seconds, at_least=at_least)
            if count < work.pending_count and at_least == LONE_PREFILL_TOKENS:
                stretched = self._fitting(work, seconds * _END_STRETCH, at_least=at_least)
                count = stretched if stretched == work.pending_count else count
            if count <= 0:
                return
            beside = self._shape.token_count
            self._add(Chunk(work, in_whole_tiles(count, beside=beside, pending=work.pending_count)))
            at_least = 0

    def _fitting(self, work: WorkT, seconds: float, *, at_least: int) -> int:
        most = min(work.pending_count, self._limits.tokens - self._shape.token_count)
        return self._cost.tokens_within(
            seconds, beside=self._shape, start=work.computed_count, at_least=at_least, at_most=most
        )

    def _add(self, chunk: Chunk[WorkT]) -> None:
        self.plan.append(chunk)
        self._shape += chunk.shape


def _apart(works: Iterable[WorkT]) -> tuple[list[WorkT], list[WorkT]]:
    decoding: list[WorkT] = []
    prompts: list[WorkT] = []
    for work in works:
        (decoding if work.is_decoding else prompts).append(work)
    return decoding, prompts


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
        return stands_back(work, now=now), work.pending_count / max(prefill_rate, 1.0) - age

    return sorted(waiting, key=score)


def stands_back(work: Work, *, now: float) -> bool:
    """Whether interactive work goes before this."""
    return work.is_batch and now - work.arrived_at < BATCH_PATIENCE_SECONDS


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
