"""MiniMax M2: `<minimax:tool_call><invoke name="…"><parameter name="…">value</parameter></invoke></minimax:tool_call>`.

Source: https://huggingface.co/MiniMaxAI/MiniMax-M2/blob/main/docs/tool_calling_guide.md.
"""

from functools import partial
from typing import Final

from services.worker.tool_calls.formats.base import CallFormat
from services.worker.tool_calls.forms import Dialect
from services.worker.tool_calls.markup import Markup, read_named_element
from services.worker.tool_calls.shapes import CallShape, MarkupBody
from services.worker.tool_calls.tags import Tags

WRAPPER: Final = "<minimax:tool_call>"
MARKER: Final = "<invoke name="
_WRAPPER_CLOSE: Final = "</minimax:tool_call>"
_MARKUP: Final = Markup(
    wrapper_close=_WRAPPER_CLOSE,
    close="</invoke>",
    parameter="<parameter name=",
    key_close=">",
    value="",
    value_close="</parameter>",
)
READ: Final = partial(read_named_element, markup=_MARKUP)
MINIMAX: Final = CallFormat(
    "minimax",
    Dialect(Tags((WRAPPER,), forms=(MARKER,), closers=("</invoke>",)), {MARKER: READ}, (MARKER,)),
    CallShape(
        MarkupBody('">', Markup(
            _WRAPPER_CLOSE, "</invoke>", '<parameter name="', '">', "", "</parameter>",
        ), "\n"),
        prefix='<invoke name="',
        suffix="</invoke>",
        begin=f"{WRAPPER}\n",
        end=f"\n{_WRAPPER_CLOSE}",
        separator="\n",
    ),
    frozenset({WRAPPER, _WRAPPER_CLOSE}),
)  # fmt: skip
