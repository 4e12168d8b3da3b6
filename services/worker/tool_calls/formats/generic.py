"""Any model whose template teaches no notation that is known: all notations that can't be mistaken are read."""

from typing import Final

from services.worker.tool_calls.formats.base import CallFormat
from services.worker.tool_calls.formats.deepseek import DEEPSEEK
from services.worker.tool_calls.formats.kimi import KIMI
from services.worker.tool_calls.formats.llama import LLAMA
from services.worker.tool_calls.formats.minimax import MINIMAX
from services.worker.tool_calls.formats.mistral import MISTRAL
from services.worker.tool_calls.formats.qwen_coder import QWEN_CODER
from services.worker.tool_calls.forms import Dialect
from services.worker.tool_calls.shapes import HERMES_SHAPE
from services.worker.tool_calls.tags import CALL_TAGS, Tags

_READ: Final = (DEEPSEEK, KIMI, LLAMA, MINIMAX, MISTRAL, QWEN_CODER)
_FORMS: Final = {marker: form for known in _READ for marker, form in known.dialect.forms.items()}
_NATIVE: Final = {tag for known in _READ for tag in known.dialect.tags.native}
_CLOSING: Final = {tag for known in _READ for tag in known.dialect.tags.closing}
GENERIC: Final = CallFormat(
    "generic",
    Dialect(Tags({*CALL_TAGS, *_NATIVE}, forms=_FORMS, closers=_CLOSING), _FORMS),
    HERMES_SHAPE,
    frozenset(text for known in _READ for text in known.special_texts),
)
