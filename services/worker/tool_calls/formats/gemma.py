"""Gemma up to 3: no notation of its own, but what prompts ask for: a `tool_code` block, a list of calls, or JSON.

Source: https://ai.google.dev/gemma/docs/capabilities/function-calling.
"""

from typing import Final

from services.worker.tool_calls.formats.base import CallFormat
from services.worker.tool_calls.forms import Dialect
from services.worker.tool_calls.shapes import CallShape, JsonBody
from services.worker.tool_calls.tags import CALL_TAGS, Tags

GEMMA: Final = CallFormat("gemma", Dialect(Tags(CALL_TAGS)), CallShape(JsonBody("parameters"), separator="\n"))
