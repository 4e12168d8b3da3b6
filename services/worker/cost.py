"""What a step costs, learned from the steps that were run."""

from bisect import bisect_left
from typing import Final

_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_WEIGHT_OF_NEW: Final = 0.25
_PATIENCE: Final = 10.0
_SHORTEST_HANG_SECONDS: Final = 30.0


class StepCost:
    """A curve of seconds over tokens of one `llama_decode`, updated by every step."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def observe(self, token_count: int, seconds: float) -> None:
        """Learns from one step."""
        size = _SIZES[min(bisect_left(_SIZES, token_count), len(_SIZES) - 1)]
        scaled = seconds * size / token_count if size > 1 else seconds
        known = self._seconds.get(size)
        self._seconds[size] = scaled if known is None else known + _WEIGHT_OF_NEW * (scaled - known)

    def expected_seconds(self, token_count: int) -> float | None:
        """Estimates a step; None before anything was observed."""
        if not self._seconds:
            return None
        sizes = sorted(self._seconds)
        above = next((size for size in sizes if size >= token_count), None)
        if above is None:  # beyond what is known the cost grows in proportion
            return self._seconds[sizes[-1]] * token_count / sizes[-1]
        below = max((size for size in sizes if size <= token_count), default=None)
        if below is None or below == above:
            return self._seconds[above]
        share = (token_count - below) / (above - below)
        return self._seconds[below] + share * (self._seconds[above] - self._seconds[below])

    def tokens_within(self, seconds: float, *, at_least: int, at_most: int) -> int:
        """Says how many tokens fit a step of this length."""
        low, high = at_least, max(at_least, at_most)
        while low < high:
            middle = (low + high + 1) // 2
            expected = self.expected_seconds(middle)
            if expected is None or expected <= seconds:
                low = middle
            else:
                high = middle - 1
        return low

    @property
    def prefill_tokens_per_second(self) -> float:
        """The rate of the largest step known; 0 before anything was observed."""
        if not self._seconds:
            return 0.0
        size = max(self._seconds)
        return size / self._seconds[size] if self._seconds[size] > 0 else 0.0

    def hang_seconds(self, token_count: int) -> float:
        """Says after how long a step of this size must be called hung."""
        return max(_SHORTEST_HANG_SECONDS, _PATIENCE * (self.expected_seconds(token_count) or 0.0))
