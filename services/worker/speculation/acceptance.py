"""How likely a guess is right, learned from the guesses before it. Pure."""

from bisect import bisect_right
from typing import Final

_MATCH_BOUNDS: Final = (4, 6, 9, 16)
_MATCH_PRIORS: Final = (0.2, 0.35, 0.5, 0.65, 0.8)  # low: a stream earns its drafts by what lookup would have guessed
_MATCH_PRIOR_WEIGHT: Final = 4.0
_MATCH_MEMORY: Final = 0.95  # the last 20 tokens count most

_DRAFT_PRIOR: Final = 0.75
_DRAFT_PRIOR_WEIGHT: Final = 6.0
_DRAFT_MEMORY: Final = 0.97
_PLAIN_MEMORY: Final = 0.995  # a model that was wrong is tried again after a few hundred plain tokens


class _Rate:
    """A share of successes that forgets, and leans on a prior until it has seen some."""

    def __init__(self, prior: float, weight: float, memory: float) -> None:
        self._prior, self._weight, self._memory = prior, weight, memory
        self._right = self._count = 0.0

    @property
    def value(self) -> float:
        return (self._right + self._prior * self._weight) / (self._count + self._weight)

    def observe(self, *, was_right: bool) -> None:
        self.forget(self._memory)
        self._right += was_right
        self._count += 1

    def forget(self, memory: float) -> None:
        self._right *= memory
        self._count *= memory


class MatchAcceptance:
    """How often the token that lookup expects next is right, by the length of the match it comes from."""

    def __init__(self) -> None:
        self._rates = [_Rate(prior, _MATCH_PRIOR_WEIGHT, _MATCH_MEMORY) for prior in _MATCH_PRIORS]

    def observe(self, match_length: int, *, was_right: bool) -> None:
        """Learns from one token, drafted or not."""
        self._rates[bisect_right(_MATCH_BOUNDS, match_length)].observe(was_right=was_right)

    def chances(self, match_length: int, count: int) -> list[float]:
        """The chance of each of the next tokens that it and all before it are right."""
        chances: list[float] = []
        chance, length, end = 1.0, match_length, match_length + count
        while length < end:
            index = bisect_right(_MATCH_BOUNDS, length)
            rate = self._rates[index].value
            bound = min(end, _MATCH_BOUNDS[index]) if index < len(_MATCH_BOUNDS) else end
            for _ in range(length, bound):
                chance *= rate
                chances.append(chance)
            length = bound
        return chances


class DraftAcceptance:
    """How often a draft model says what the target says."""

    def __init__(self) -> None:
        self._rate = _Rate(_DRAFT_PRIOR, _DRAFT_PRIOR_WEIGHT, _DRAFT_MEMORY)

    def observe(self, drafted_count: int, accepted_count: int) -> None:
        """Learns from one verified draft; what stands behind the first wrong token says nothing."""
        for _ in range(accepted_count):
            self._rate.observe(was_right=True)
        if accepted_count < drafted_count:
            self._rate.observe(was_right=False)

    def observe_plain_step(self) -> None:
        """Lets what was learned fade, so that a text that became easier is noticed."""
        self._rate.forget(_PLAIN_MEMORY)

    def chances(self, count: int) -> list[float]:
        """The chance of each of the next tokens that it and all before it are right."""
        return [self._rate.value**length for length in range(1, count + 1)]
