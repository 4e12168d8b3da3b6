"""Notices that an answer which has made a call does not come to its end, as those of small models may not.

The client waits for the end before it tells the model what its calls have brought.
"""

from collections import Counter
from typing import Final

from services.worker.tool_calls.events import CallArguments, CallEnd, CallStart, Event, Text

MOST_REPEATS: Final = 8
"""So often one call may be made with the same arguments: some tools roll dice."""
MOST_CYCLES: Final = 3
"""So often several calls may be made in the same order with the same arguments."""
MOST_CHARACTERS: Final = 1000
"""So much may be said behind a call before the next one: a sentence or two, not what the tool might have answered."""


class RunOn:
    """Follows the calls of one answer, by name and arguments, and what is said behind them."""

    def __init__(self) -> None:
        self._calls: list[str] = []
        self._counts: Counter[str] = Counter()
        self._parts: list[str] = []
        self._character_count = 0

    def is_too_much(self, event: Event) -> bool:
        """Takes what a parser found next; whether the answer should end with it."""
        match event:
            case CallStart(name=name):
                self._parts = [name]
            case CallArguments(text=text):
                self._parts.append(text)
            case CallEnd():
                self._character_count = 0
                self._calls.append("".join(self._parts))
                self._counts[self._calls[-1]] += 1
                return self._counts[self._calls[-1]] >= MOST_REPEATS or self._goes_round()
            case Text(text=text) if self._calls:
                self._character_count += len(text)
                return self._character_count > MOST_CHARACTERS
        return False

    def _goes_round(self) -> bool:
        calls = self._calls
        for length in range(2, len(calls) // MOST_CYCLES + 1):
            cycle = calls[-length:]
            if len(set(cycle)) > 1 and calls[-length * MOST_CYCLES :] == cycle * MOST_CYCLES:
                return True
        return False
