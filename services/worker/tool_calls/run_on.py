"""Notices that an answer which has made a call does not come to its end, as those of small models may not.

The client waits for the end before it tells the model what its calls have brought.
"""

from collections import Counter
from typing import Final

from services.worker.tool_calls.events import CallArguments, CallEnd, CallStart, Event, Text

MOST_CALLS: Final = 32
"""So many calls may be made before the model hears what they brought."""
MOST_REPEATS: Final = 3
"""So often one call may be made with the same arguments: once is enough for all tools but dice."""
MOST_CHARACTERS: Final = 1000
"""So much may be said behind a call before the next one: a sentence or two, not what the tool might have answered."""


class RunOn:
    """Follows the calls of one answer, by name and arguments, and what is said behind them."""

    def __init__(self) -> None:
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
                call = "".join(self._parts)
                self._counts[call] += 1
                return self._counts.total() >= MOST_CALLS or self._counts[call] >= MOST_REPEATS
            case Text(text=text) if self._counts:
                self._character_count += len(text)
                return self._character_count > MOST_CHARACTERS
        return False
