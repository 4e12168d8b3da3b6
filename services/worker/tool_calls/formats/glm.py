"""GLM 4.5 to 4.7: `<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`.

Until 4.6 every tag begins a line, from 4.7 on none does. Source: https://huggingface.co/zai-org/GLM-4.6/blob/main/chat_template.jinja.
"""

import re
from collections.abc import Generator
from typing import Final

from services.worker.json_strings import END
from services.worker.tool_calls.call import NotACall
from services.worker.tool_calls.formats.base import CallFormat
from services.worker.tool_calls.forms import Dialect, Reading
from services.worker.tool_calls.markup import Markup, read_parameters
from services.worker.tool_calls.shapes import CallShape, MarkupBody
from services.worker.tool_calls.tags import Tags

_MARKER: Final = "<tool_call>"
_CLOSE: Final = "</tool_call>"
_NAME: Final = re.compile(r"[\w./:-]{1,64}")
_MARKUP: Final = Markup(
    wrapper_close=_CLOSE,
    close=_CLOSE,
    parameter="<arg_key>",
    key_close="</arg_key>",
    value="<arg_value>",
    value_close="</arg_value>",
)
_TAGS: Final = ("<arg_key>", "<arg_value>", "</arg_key>", "</arg_value>")


def read_glm_call(reading: Reading) -> Generator[None, None, bool]:
    """Reads a call behind its opening tag; a name that was not offered counts only with a parameter."""
    yield from reading.reader.space()
    if reading.reader.current in {"{", "[", "`", "<"}:
        return False
    name = ""
    while reading.reader.current not in {"\n", "<", END}:
        name += reading.reader.current
        if not _NAME.fullmatch(name.rstrip()):
            raise NotACall
        yield
    name, read = name.rstrip(), ""
    if not reading.names.resolve(name).is_offered:
        read = yield from _parameter_tag(reading)
    reading.call.set_name(name)
    yield from read_parameters(reading, _MARKUP, read)
    return True


def _parameter_tag(reading: Reading) -> Generator[None, None, str]:
    """Reads the first parameter's tag up to its last character; raises `NotACall` where there is none."""
    yield from reading.reader.space()
    read = ""
    while read != _MARKUP.parameter:
        read += reading.reader.current
        if reading.reader.current == END or not _MARKUP.parameter.startswith(read):
            raise NotACall
        if read != _MARKUP.parameter:
            yield
    return read


GLM: Final = CallFormat(
    "glm",
    Dialect(Tags((_MARKER,), forms=(_MARKER,)), {_MARKER: read_glm_call}, (_MARKER,)),
    CallShape(MarkupBody("\n", _MARKUP, "\n"), prefix=_MARKER, suffix=_CLOSE, separator="\n"),
    frozenset({_MARKER, _CLOSE, *_TAGS}),
)
