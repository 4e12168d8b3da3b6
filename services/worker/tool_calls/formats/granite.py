"""Granite 3: `<|tool_call|>[{"name": …, "arguments": …}]`; Granite 4 writes Hermes's form and is read as such.

Source: https://huggingface.co/ibm-granite/granite-3.3-8b-instruct/blob/main/tokenizer_config.json (chat_template).
"""

from typing import Final

from services.worker.tool_calls.formats.base import CallFormat
from services.worker.tool_calls.forms import Dialect
from services.worker.tool_calls.shapes import CallShape, JsonBody
from services.worker.tool_calls.tags import Tags

MARKER: Final = "<|tool_call|>"
GRANITE: Final = CallFormat(
    "granite",
    Dialect(Tags((MARKER, "<tool_call>"))),
    CallShape(JsonBody(), begin=f"{MARKER}[", end="]", separator=", "),
    frozenset({MARKER}),
)
