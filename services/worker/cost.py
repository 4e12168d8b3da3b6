"""What a step costs, learned from the steps that were run.

A step costs what its tokens cost (a curve with steps: 12 tokens may cost as much as 16), something for each token that
wants logits, and something for each pair of a token and a cell that it attends to. A pair is several times cheaper
where many tokens share the work: ggml's flash attention on CPUs takes 64 of them at once, or one by one if there are
fewer (`ggml_flash_attn_ext_tiled` in ggml-cpu/ops.cpp).
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_SIZES: Final[tuple[int, ...]] = (
    *range(1, 17), 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192,
)  # fmt: skip
_NOISE: Final = 0.1  # of a measured time, as a share of it
_DRIFT: Final = 0.03  # how far the truth moves from step to step, as a share
_UNSURE: Final = 0.5  # how far an interpolated cost may be off, as a share
_MOST_SURPRISE: Final = 2.0
ATTENTION_TILE: Final = 64
"""Tokens from which on attention costs a fraction as much for each."""
_DEPTHS_THAT_DOUBLE: Final = {False: 1500, True: 5000}
"""Cells: at this depth tokens may cost twice as much, before anything was measured; with tiles deeper."""
_LEAST_DEPTHS_THAT_DOUBLE: Final = {False: 500, True: 2000}
"""What looks steeper is another program's doing: with the 0.5B on two cores it is 1,200 and 5,500."""
_COMMON: Final = 0.4  # share of what no part explains that is laid to the machine as a whole
_PATIENCE: Final = 10.0
_SHORTEST_HANG_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class StepShape:
    """What one `llama_decode` has to do."""

    token_count: int = 0
    output_count: int = 0
    """Tokens whose logits are wanted."""
    pair_count: int = 0
    """Pairs of a token and a cell that it attends to."""

    @classmethod
    def of_row(cls, start: int, token_count: int, output_count: int) -> "StepShape":
        """The shape of consecutive tokens of one sequence, `start` tokens behind its beginning."""
        return cls(token_count, output_count, token_count * start + token_count * (token_count + 1) // 2)

    def __add__(self, other: "StepShape") -> "StepShape":
        return StepShape(
            self.token_count + other.token_count,
            self.output_count + other.output_count,
            self.pair_count + other.pair_count,
        )


def total(shapes: Iterable[StepShape]) -> StepShape:
    """Adds shapes up."""
    tokens = outputs = pairs = 0
    for shape in shapes:
        tokens += shape.token_count
        outputs += shape.output_count
        pairs += shape.pair_count
    return StepShape(tokens, outputs, pairs)


@dataclass(slots=True)
class _Estimate:
    """One part of the cost, and how sure it is."""

    seconds: float = 0.0
    variance: float = 0.0
    drift: float = 0.0


class StepCost:
    """Estimates seconds of a step, updated by every step: a Kalman filter that takes its parts for independent."""

    def __init__(self) -> None:
        self._known_sizes: list[int] = []
        self._tokens: dict[int, _Estimate] = {}
        self._output = _Estimate()
        self._pairs = {False: _Estimate(), True: _Estimate()}  # by whether attention works in tiles
        self._slowness = 1.0
        """A machine that others use is slower at all it does, also at sizes that are not run now."""

    def observe(self, shape: StepShape, seconds: float) -> None:
        """Learns from one step: what it took beyond what was expected is shared out to what is least sure."""
        seconds /= self._slowness
        size = _nearest_size(shape.token_count)
        if size not in self._tokens:
            self._begin_size(size, shape, seconds)
        weights = (shape.token_count / size, max(0, shape.output_count - 1), shape.pair_count)
        is_tiled = shape.token_count >= ATTENTION_TILE
        parts = (self._tokens[size], self._output, self._pairs[is_tiled])
        expected = sum(part.seconds * weight for part, weight in zip(parts, weights, strict=True))
        error = min(seconds, _MOST_SURPRISE * expected) - expected
        spread = sum(part.variance * weight**2 for part, weight in zip(parts, weights, strict=True))
        spread += (_NOISE * expected) ** 2
        if expected == 0:
            return
        explained = 0.0
        for part, weight in zip(parts, weights, strict=True):
            gain = part.variance * weight / spread
            explained += gain * weight
            part.seconds = max(0.0, part.seconds + gain * error)
            part.variance = part.variance * (1 - gain * weight) + part.drift
        largest = self._known_sizes[-1]
        steepest = self._tokens[largest].seconds / (largest * _LEAST_DEPTHS_THAT_DOUBLE[is_tiled])
        self._pairs[is_tiled].seconds = min(self._pairs[is_tiled].seconds, steepest)
        self._slowness *= 1 + _COMMON * (1 - explained) * error / expected

    def expected_seconds(self, shape: StepShape) -> float | None:
        """Estimates a step; None before anything was observed."""
        if not self._known_sizes:
            return None
        return self.seconds_of(shape.token_count, shape.output_count, shape.pair_count)

    def seconds_of(self, token_count: int, output_count: int, pair_count: int) -> float:
        """The same for the numbers of a shape, where many are compared; something must have been observed."""
        extra_outputs = output_count - 1 if output_count else 0
        pair_seconds = self._pairs[True].seconds
        if token_count < ATTENTION_TILE:
            pair_seconds = max(pair_seconds, self._pairs[False].seconds)  # until that is learned
        parts = self._of_tokens(token_count) + self._output.seconds * extra_outputs + pair_seconds * pair_count
        return self._slowness * parts

    def tokens_within(self, seconds: float, *, beside: StepShape, start: int, at_least: int, at_most: int) -> int:
        """Says how many tokens of a prompt, `start` tokens behind its beginning, fit a step beside what it has to do.

        `at_least` tokens are granted even if they don't fit.
        """

        def fits(count: int) -> bool:
            expected = self.expected_seconds(beside + StepShape.of_row(start, count, 1))
            return expected is None or expected <= seconds

        low, high = min(at_least, at_most), at_most
        tile = ATTENTION_TILE - beside.token_count  # from here on a step may cost less than with a few tokens fewer
        if low < tile <= high:
            low, high = (tile, high) if fits(tile) else (low, tile - 1)
        while low < high:
            middle = (low + high + 1) // 2
            if fits(middle):
                low = middle
            else:
                high = middle - 1
        return low

    @property
    def prefill_tokens_per_second(self) -> float:
        """The rate of the largest step known, at the beginning of a prompt; 0 before anything was observed."""
        if not self._known_sizes:
            return 0.0
        size = self._known_sizes[-1]
        seconds = self._slowness * self._tokens[size].seconds
        return size / seconds if seconds > 0 else 0.0

    @property
    def seconds_by_size(self) -> dict[int, float]:
        """What steps of the sizes that were run cost, but for their outputs and attention."""
        return {size: part.seconds for size, part in sorted(self._tokens.items())}

    @property
    def output_seconds(self) -> float:
        """What each output beyond the first adds."""
        return self._output.seconds

    def hang_seconds(self, shape: StepShape) -> float:
        """Says after how long a step of this shape must be called hung."""
        return max(_SHORTEST_HANG_SECONDS, _PATIENCE * (self.expected_seconds(shape) or 0.0))

    def _of_tokens(self, count: int) -> float:
        sizes = self._known_sizes
        index = bisect_left(sizes, count)
        if index == len(sizes):  # beyond what is known the cost grows in proportion
            return self._tokens[sizes[-1]].seconds * count / sizes[-1]
        above = self._tokens[sizes[index]].seconds
        if index == 0 or sizes[index] == count:
            return above
        below = self._tokens[sizes[index - 1]].seconds
        share = (count - sizes[index - 1]) / (sizes[index] - sizes[index - 1])
        return below + share * (above - below)

    def _begin_size(self, size: int, shape: StepShape, seconds: float) -> None:
        if not self._known_sizes:
            self._begin(shape, seconds)
            guess = seconds * size / shape.token_count
        else:
            guess = self._of_tokens(size)
        self._tokens[size] = _Estimate(guess, (_UNSURE * guess) ** 2, (_DRIFT * guess) ** 2)
        self._known_sizes = sorted(self._tokens)

    def _begin(self, shape: StepShape, seconds: float) -> None:
        token_seconds = seconds / shape.token_count
        pairs = ((self._pairs[is_tiled], token_seconds / depth) for is_tiled, depth in _DEPTHS_THAT_DOUBLE.items())
        for part, spread in ((self._output, token_seconds / 4), *pairs):
            part.variance, part.drift = spread**2, (_DRIFT * spread / 4) ** 2


def _nearest_size(token_count: int) -> int:
    index = bisect_left(_SIZES, token_count)
    if index == len(_SIZES):
        return _SIZES[-1]
    if index and token_count - _SIZES[index - 1] < _SIZES[index] - token_count:
        return _SIZES[index - 1]
    return _SIZES[index]
