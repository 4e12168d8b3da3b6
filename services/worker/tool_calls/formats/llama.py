"""Llama 3: `{"name": …, "parameters": …}`, perhaps behind `<|python_tag|>`; since 3.2 also calls as in Python.

Source: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/ and …/llama4/.
"""

from typing import Final

from services.worker.tool_calls.formats.base import CallFormat
from services.worker.tool_calls.forms import Dialect
from services.worker.tool_calls.pythonic import read_python_tag
from services.worker.tool_calls.shapes import CallShape, JsonBody
from services.worker.tool_calls.tags import Tags

MARKER: Final = "<|python_tag|>"
LLAMA: Final = CallFormat(
    "llama",
    Dialect(Tags((MARKER,), forms=(MARKER,)), {MARKER: read_python_tag}),
    CallShape(JsonBody("parameters"), separator="; "),
    frozenset({MARKER}),
)
