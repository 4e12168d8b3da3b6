"""What every parser and format of tool calls looks like."""

from collections.abc import Collection, Sequence
from typing import Protocol

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.tool_calls.events import Event
from services.worker.tool_calls.shapes import CallShape


class CallParser(Protocol):
    """Finds the calls in one answer while it streams."""

    @property
    def is_in_call(self) -> bool:
        """Whether what comes next belongs to an object that may be a call."""
        ...

    @property
    def opening(self) -> str:
        """A call from its brace or marker on, while its name is all that comes next; empty anywhere else."""
        ...

    @property
    def misnamed(self) -> str:
        """The object of a call from its brace on, if its name was not offered but arguments follow; else empty."""
        ...

    def feed(self, text: str) -> list[Event]:
        """Takes the next text and returns what is decided."""
        ...

    def finish(self, *, ended_by_model: bool) -> list[Event]:
        """Ends the answer; a call that was cut is completed only if the model itself ended the answer."""
        ...


class Format(Protocol):
    """The way in which a family of models writes calls."""

    @property
    def name(self) -> str:
        """What logs call it."""
        ...

    @property
    def special_texts(self) -> Collection[str]:
        """Control tokens by which the parser knows calls, so that their text must reach it."""
        ...

    @property
    def shape(self) -> CallShape:
        """How a call that must be made is written."""
        ...

    def parser(self, tools: Sequence[pb.Tool]) -> CallParser:
        """Makes the parser of one answer."""
        ...

    def history_id(self, given: str, name: str, ordinal: int) -> str:
        """The id that the model knows a past call by; calls of a conversation are counted from 0."""
        ...
