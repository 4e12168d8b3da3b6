"""Tool calls in what a model writes, parsed while it streams; each family's way of writing them is a `Format`."""

from services.worker.tool_calls.events import CallArguments, CallEnd, CallStart, Event, Text
from services.worker.tool_calls.formats import GENERIC, pick_format
from services.worker.tool_calls.interface import CallParser, Format

__all__ = [
    "GENERIC",
    "CallArguments",
    "CallEnd",
    "CallParser",
    "CallStart",
    "Event",
    "Format",
    "Text",
    "pick_format",
]
