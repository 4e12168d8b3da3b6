"""Arithmetic on measurements. Pure."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.client import Timing


@dataclass(frozen=True)
class Spread:
    """Where values of several rounds lie."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(min(values), statistics.median(values), max(values))


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    rank = -int(-share * len(ordered) // 1)
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Quotients of the rounds that both took part in, where the divisor is not zero."""
    return [mine / other for mine, other in zip(ours, theirs, strict=False) if other]


def rate_together(timings: Sequence[Timing]) -> float:
    """Tokens a second of all streams while every one of them decodes: from the last first token to the first end.

    The first chunk of a stream is taken for one token; those of each later chunk, as many as its text is long, for
    decoded one after the other since the chunk before. So a server that sends several at once is neither credited nor
    charged for when it sends, nor for sending less at once when fewer streams are left.
    """
    started = max(timing.arrivals[0] for timing in timings)
    ended = min(timing.arrivals[-1] for timing in timings)
    tokens = sum(_decoded_within(timing, started, ended) for timing in timings)
    return tokens / max(ended - started, 1e-9)


def _decoded_within(timing: Timing, start: float, end: float) -> float:
    if len(timing.arrivals) < 2:
        return 0.0
    sizes = timing.sizes[1:] or [1] * (len(timing.arrivals) - 1)
    shares = (
        size * max(0.0, min(later, end) - max(earlier, start)) / max(later - earlier, 1e-9)
        for size, (earlier, later) in zip(sizes, pairwise(timing.arrivals), strict=True)
    )
    return (timing.completion_tokens - 1) * sum(shares) / sum(sizes)


def gaps_within(arrivals: Sequence[float], start: float, end: float) -> list[float]:
    """Gaps between arrivals that overlap a span of time, each in its whole length."""
    return [later - earlier for earlier, later in pairwise(arrivals) if later > start and earlier < end]
