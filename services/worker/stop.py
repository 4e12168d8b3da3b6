"""Stop texts, found in text that arrives in pieces."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopResult:
    """Text that belongs to the answer, and the stop text found behind it, if any."""

    text: str
    stop: str | None = None


class StopMatcher:
    """Finds the stop text that is complete first, and holds back only what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def feed(self, text: str) -> StopResult:
        """Takes the next text; after a match nothing more may be fed."""
        if not self._stops:
            return StopResult(text)
        text = self._held + text
        if (match := self._first_match(text)) is not None:
            start, stop = match
            self._held = ""
            return StopResult(text[:start], stop)
        held = self._held_length(text)
        self._held = text[len(text) - held :]
        return StopResult(text[: len(text) - held])

    def flush(self) -> str:
        """Returns what was held back: the text has ended, so it is no stop."""
        text, self._held = self._held, ""
        return text

    def _first_match(self, text: str) -> tuple[int, str] | None:
        found = ((text.find(stop), stop) for stop in self._stops)
        # By end, not by start: the result must not depend on how the text was cut into pieces.
        matches = [(start + len(stop), start, stop) for start, stop in found if start >= 0]
        return min(matches)[1:] if matches else None

    def _held_length(self, text: str) -> int:
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
