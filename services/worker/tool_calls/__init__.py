"""Tool calls in what a model writes, parsed while it streams; each family's way of writing them is a `Format`."""

from services.worker.tool_calls.events import CallArguments, CallEnd, CallParser, CallStart, Event, Format, Text
from services.worker.tool_calls.formats import GENERIC, HERMES, pick_format

__all__ = [
    "GENERIC",
    "HERMES",
    "CallArguments",
    "CallEnd",
    "CallParser",
    "CallStart",
    "Event",
    "Format",
    "Text",
    "pick_format",
]
