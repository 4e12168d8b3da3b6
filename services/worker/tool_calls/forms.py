"""What a format adds to the parser: readers of its own notation, each behind a marker such as `<function=`."""

from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from services.worker.json_stream import JsonReader
from services.worker.tool_calls.call import Call
from services.worker.tool_calls.names import ToolNames
from services.worker.tool_calls.tags import Tags


class Reading(Protocol):
    """The answer being read, as far as a form's reader may touch it."""

    reader: JsonReader
    names: ToolNames

    @property
    def call(self) -> Call:
        """The call being read."""
        ...

    @property
    def is_wrapped(self) -> bool:
        """Whether a native tag stands around it, behind which nothing but a call follows."""
        ...

    def next_call(self, *, is_native: bool) -> Call:
        """Begins a further call; what is read from here on is held back until it is certain."""
        ...

    def text(self, text: str) -> None:
        """Delivers what was read behind a call and is no part of it."""
        ...


Form = Callable[[Reading], Generator[None, None, bool]]
"""Reads what follows its marker, from the first character on.

Returns true if that was one or more calls, false if JSON follows instead; raises `NotACall` if it is text.
"""


@dataclass(frozen=True)
class Dialect:
    """The markers by which a format's calls are known, beside code blocks and bare JSON, which all formats may use."""

    tags: Tags
    forms: Mapping[str, Form] = field(default_factory=dict)
    guarded: Collection[str] = ()
    """Markers with which the grammar of an offered call begins."""
