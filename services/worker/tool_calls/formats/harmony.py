"""gpt-oss (harmony): `<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>`.

The recipient may also stand in the role's part of the header: `<|start|>assistant to=functions.name<|channel|>…`.
Messages without a recipient never come here: the channels are taken apart before (`harmony_channels.py`).
Source: https://github.com/openai/harmony/blob/main/docs/format.md.
"""

import re
from typing import Final

from services.worker.harmony_channels import CHANNEL, CONTROL_TEXTS, MESSAGE, START
from services.worker.tool_calls.formats.base import CallFormat
from services.worker.tool_calls.forms import Dialect
from services.worker.tool_calls.named import named_form
from services.worker.tool_calls.shapes import CallShape, NamedBody
from services.worker.tool_calls.tags import Tags

_RECIPIENT: Final = re.compile(r"\bto=(?:functions\.)?([\w./:-]+)")
_CALL: Final = "<|call|>"


def _to_name(header: str) -> str:
    match = _RECIPIENT.search(header)
    return match.group(1) if match else ""


_READ: Final = named_form(MESSAGE, _to_name, (_CALL, "<|end|>"))
HARMONY: Final = CallFormat(
    "harmony",
    Dialect(Tags((), forms=(CHANNEL, START), closers=(_CALL, "<|end|>")), {CHANNEL: _READ, START: _READ}, (CHANNEL,)),
    CallShape(
        NamedBody('" <|constrain|>json<|message|>"'),
        prefix="<|channel|>commentary to=functions.",
        separator="<|call|><|start|>assistant",
    ),
    CONTROL_TEXTS,
)
