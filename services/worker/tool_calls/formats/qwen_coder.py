"""Qwen3-Coder and Qwen3.5: `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`.

Source: https://huggingface.co/Qwen/Qwen3-Coder-30B-A3B-Instruct/blob/main/chat_template.jinja.
"""

from functools import partial
from typing import Final

from services.worker.tool_calls.formats.base import CallFormat
from services.worker.tool_calls.forms import Dialect
from services.worker.tool_calls.markup import Markup, read_named_element
from services.worker.tool_calls.shapes import CallShape, MarkupBody
from services.worker.tool_calls.tags import Tags

MARKER: Final = "<function="
_MARKUP: Final = Markup(
    wrapper_close="</tool_call>",
    close="</function>",
    parameter="<parameter=",
    key_close=">",
    value="",
    value_close="</parameter>",
    has_value_on_own_lines=True,
)
READ: Final = partial(read_named_element, markup=_MARKUP)
QWEN_CODER: Final = CallFormat(
    "qwen-coder",
    Dialect(Tags(("<tool_call>",), forms=(MARKER,), closers=("</function>",)), {MARKER: READ}, (MARKER,)),
    CallShape(
        MarkupBody(">", _MARKUP, "\n"),
        prefix="<function=",
        suffix="</function>",
        begin="<tool_call>\n",
        end="\n</tool_call>",
        separator="\n</tool_call>\n<tool_call>\n",
    ),
    frozenset({"<tool_call>", "</tool_call>"}),
)
