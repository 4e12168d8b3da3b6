"""Notices that an answer makes one call again and again: small models that must call a function may never end."""

from collections import Counter
from typing import Final

from services.worker.tool_calls.events import CallArguments, CallEnd, CallStart, Event

MOST_REPEATS: Final = 8
"""So often one call may be made with the same arguments: some tools roll dice."""


class Repeats:
    """Counts the calls of one answer by name and arguments."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._parts: list[str] = []

    def is_last_allowed(self, event: Event) -> bool:
        """Takes what a parser found next; whether a call has ended that should be the last one."""
        match event:
            case CallStart(name=name):
                self._parts = [name]
            case CallArguments(text=text):
                self._parts.append(text)
            case CallEnd():
                call = "".join(self._parts)
                self._counts[call] += 1
                return self._counts[call] >= MOST_REPEATS
        return False
