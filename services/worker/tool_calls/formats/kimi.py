"""Kimi K2: `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`, calls in a section.

The id before the arguments names the tool and counts the calls of the conversation; the model expects it back.
Source: https://huggingface.co/moonshotai/Kimi-K2-Instruct/blob/main/docs/tool_call_guidance.md.
"""

import re
from typing import Final

from services.worker.tool_calls.formats.base import CallFormat
from services.worker.tool_calls.forms import Dialect
from services.worker.tool_calls.named import named_form
from services.worker.tool_calls.shapes import CallShape, NamedBody
from services.worker.tool_calls.tags import Tags

SECTION_BEGIN: Final = "<|tool_calls_section_begin|>"
MARKER: Final = "<|tool_call_begin|>"
_SECTION_END: Final = "<|tool_calls_section_end|>"
_CALL_END: Final = "<|tool_call_end|>"
_SEPARATOR: Final = "<|tool_call_argument_begin|>"
_ID: Final = re.compile(r"\s*(?:functions\.)?(.*?)(?::\d+)?\s*", re.DOTALL)


def _to_name(call_id: str) -> str:
    match = _ID.fullmatch(call_id)
    return match.group(1) if match else call_id


def _to_id(_given: str, name: str, ordinal: int) -> str:
    return f"functions.{name}:{ordinal}"


KIMI: Final = CallFormat(
    "kimi",
    Dialect(
        Tags((SECTION_BEGIN,), forms=(MARKER,), closers=(_CALL_END, _SECTION_END)),
        {MARKER: named_form(_SEPARATOR, _to_name, (_CALL_END, _SECTION_END))},
        (MARKER,),
    ),
    CallShape(
        NamedBody(f'":" [0-9]+ "{_SEPARATOR}"'),
        prefix=f"{MARKER}functions.",
        suffix=_CALL_END,
        begin=SECTION_BEGIN,
        end=_SECTION_END,
    ),
    frozenset({SECTION_BEGIN, MARKER, _SEPARATOR, _CALL_END, _SECTION_END}),
    _to_id,
)
