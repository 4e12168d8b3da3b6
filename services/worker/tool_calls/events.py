"""What a tool-call parser says about an answer."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call was recognised; calls are counted from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next characters of a call's JSON object of arguments."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call's arguments are complete."""

    index: int


Event = Text | CallStart | CallArguments | CallEnd


class EventLog:
    """Collects events and joins neighbours of one kind."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._parts: list[str] = []
        self._make: Callable[[str], Event] = Text
        self._kind: int | None = None

    def text(self, text: str) -> None:
        """Adds text of the answer."""
        if not text:
            return
        if self._kind is not None or not self._parts:
            self._flush()
            self._kind, self._make = None, Text
        self._parts.append(text)

    def arguments(self, index: int, text: str) -> None:
        """Adds characters of a call's arguments."""
        if self._kind != index:
            self._flush()
            self._kind, self._make = index, lambda joined: CallArguments(index, joined)
        self._parts.append(text)

    def add(self, event: CallStart | CallEnd) -> None:
        """Adds the start or end of a call."""
        self._flush()
        self._events.append(event)

    def drain(self) -> list[Event]:
        """Returns and forgets what was collected."""
        self._flush()
        events, self._events = self._events, []
        return events

    def _flush(self) -> None:
        if self._parts:
            self._events.append(self._make("".join(self._parts)))
            self._parts = []
