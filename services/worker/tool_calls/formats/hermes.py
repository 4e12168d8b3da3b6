"""Hermes, Qwen2.5 and Qwen3: `<tool_call>{"name": …, "arguments": …}</tool_call>`.

Source: https://huggingface.co/Qwen/Qwen3-8B/blob/main/tokenizer_config.json (chat_template).
"""

from typing import Final

from services.worker.tool_calls.formats.base import CallFormat
from services.worker.tool_calls.forms import Dialect
from services.worker.tool_calls.shapes import HERMES_SHAPE
from services.worker.tool_calls.tags import Tags

HERMES: Final = CallFormat(
    "hermes", Dialect(Tags(("<tool_call>",))), HERMES_SHAPE, frozenset({"<tool_call>", "</tool_call>"})
)
