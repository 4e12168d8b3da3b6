"""Which of the workers that run a model answers a request. Pure: all that matters is in the arguments."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

UNKNOWN_PREFILL_RATE: Final = 500.0
"""Tokens a second of a worker that has not measured itself: remote models don't."""
_SLOTS_FOR_RESERVE: Final = 3
_CROWD_FACTOR: Final = 0.25
"""How much each request that runs there slows a prefill down."""
_EQUAL_SECONDS: Final = 0.05
_ANEW_FACTOR: Final = 0.4
"""How much of the time that a worker computes is added for those who come next there: two workers that answer about as
soon are not equal if one of them has to compute what the other one knows."""


@dataclass(frozen=True)
class Candidate:
    """A living worker of the model: how busy it is, and what it knows of the prompt."""

    worker_id: str
    load: int
    """Requests there: those this router opened, and those of others."""
    slot_count: int = 0
    """Requests it works on at once; 0 means no limit known."""
    last_chosen: int = 0
    """When it was last chosen, as a count of choices; 0 is never."""
    is_draining: bool = False
    cached_token_count: int = 0
    """Prompt tokens whose KV state it holds, as far as known."""
    backlog_token_count: int = 0
    """Prompt tokens that requests sent there have yet to compute."""
    prefill_rate: float = 0.0
    """Measured prompt tokens a second; 0 if not known."""
    has_sibling: bool = False
    """Whether a request of the same group of subagents is there."""

    def has_place(self, *, reserve: int = 0) -> bool:
        """Whether a request would start at once and leave `reserve` slots free, where there are enough to do so."""
        kept = reserve if self.slot_count >= _SLOTS_FOR_RESERVE else 0
        return self.slot_count == 0 or self.load + kept < self.slot_count


@dataclass(frozen=True)
class Expectation:
    """How long a request would wait for its first token."""

    queue_seconds: float
    prefill_seconds: float

    @property
    def first_token_seconds(self) -> float:
        """Both together."""
        return self.queue_seconds + self.prefill_seconds


def others_load(reported: int, own_open: int, own_recent: int) -> int:
    """Estimates how many of the requests a worker reports are not ours.

    A report is up to three seconds old: requests that we ended within that time may still be in it.
    """
    return max(0, reported - own_open - own_recent)


@dataclass(frozen=True)
class Need:
    """What a request asks of a worker."""

    prompt_token_count: int = 0
    request_seconds: float = 10.0
    """How long such requests hold a slot."""
    waited_seconds: float = 0.0
    """How long it waits already: a worker that was expected to be free by now loses its attraction."""
    reserve: int = 0
    """Slots that it must leave free, where there are enough."""


def expect(candidate: Candidate, need: Need) -> Expectation:
    """Estimates the wait for the first token at a worker."""
    queue = 0.0
    if not candidate.has_place():
        over = candidate.load - candidate.slot_count + 1
        queue = over * need.request_seconds / max(candidate.slot_count, 1) + need.waited_seconds
    uncached = _uncached_count(candidate, need) + candidate.backlog_token_count
    crowd = 1 + _CROWD_FACTOR * min(candidate.load, candidate.slot_count or candidate.load)
    return Expectation(queue, crowd * uncached / _prefill_rate(candidate))


def ranked(candidates: Sequence[Candidate], need: Need) -> list[Candidate]:
    """Sorts workers by the first token's expected time.

    Among equals the one with a sibling goes first, then the least loaded, then the one not chosen for longest, so that
    all of them serve.
    """

    def rank(candidate: Candidate) -> tuple[int, bool, int, int, str]:
        steps = _steps(expect(candidate, need).first_token_seconds)
        return steps, not candidate.has_sibling, candidate.load, candidate.last_chosen, candidate.worker_id

    return sorted((one for one in candidates if not one.is_draining), key=rank)


def choose(candidates: Sequence[Candidate], need: Need) -> str | None:
    """Names the worker where a request starts now; none if it should wait, for a place or for the worker that knows it.

    Waiting for a full worker is right only where that is still sooner than to compute the prompt elsewhere, and never
    for one that knows no more of it: a free slot would stand idle for an estimate.
    """
    in_order = ranked(candidates, need)
    free = [one for one in in_order if one.has_place(reserve=need.reserve)]
    if not free:
        return None
    chosen = min(free, key=lambda one: _cost_steps(one, need))
    before = in_order[: in_order.index(free[0])]
    is_awaited = any(not one.has_place() and one.cached_token_count > chosen.cached_token_count for one in before)
    return None if is_awaited else chosen.worker_id


def _cost_steps(candidate: Candidate, need: Need) -> int:
    anew_seconds = _ANEW_FACTOR * _uncached_count(candidate, need) / _prefill_rate(candidate)
    return _steps(expect(candidate, need).first_token_seconds) + _steps(anew_seconds)


def _steps(seconds: float) -> int:
    return round(seconds / _EQUAL_SECONDS)


def _uncached_count(candidate: Candidate, need: Need) -> int:
    return max(need.prompt_token_count - candidate.cached_token_count, 0)


def _prefill_rate(candidate: Candidate) -> float:
    return candidate.prefill_rate or UNKNOWN_PREFILL_RATE
