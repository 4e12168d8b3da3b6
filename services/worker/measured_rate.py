"""A rate that is measured again and again."""

from typing import Final

_WEIGHT_OF_NEW: Final = 0.25


class MeasuredRate:
    """A running mean of tokens, or bytes, a second; unknown at first."""

    def __init__(self) -> None:
        self.per_second: float | None = None

    def observe(self, count: int, seconds: float) -> None:
        """Takes a measurement."""
        rate, known = count / max(seconds, 1e-6), self.per_second
        self.per_second = rate if known is None else known + _WEIGHT_OF_NEW * (rate - known)

    def recover(self) -> None:
        """Lets a rate that nobody measures any more rise, until it is tried again: disks and networks recover."""
        if self.per_second is not None:
            self.per_second *= 1 + _WEIGHT_OF_NEW

    def beats(self, other_rate: float) -> bool:
        """Whether this way is at least as fast as another one; it is tried where nothing is known yet."""
        return self.per_second is None or self.per_second >= other_rate

    def seconds(self, count: int) -> float:
        """What so many of them take; 0 where nothing is known yet."""
        return count / self.per_second if self.per_second else 0.0
