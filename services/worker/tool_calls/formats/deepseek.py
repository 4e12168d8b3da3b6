"""DeepSeek: `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜><｜tool▁calls▁end｜>`.

So V3.1 writes; V3 and R1 write `function<｜tool▁sep｜>name`, a line break and the arguments in a code block.
Source: https://huggingface.co/deepseek-ai/DeepSeek-V3.1#toolcall and
https://huggingface.co/deepseek-ai/DeepSeek-R1-0528/blob/main/tokenizer_config.json.
"""  # noqa: RUF002 - the bars are the tokens' own

from collections.abc import Generator
from typing import Final

from services.worker.json_strings import END
from services.worker.tool_calls.formats.base import CallFormat
from services.worker.tool_calls.forms import Dialect, Reading
from services.worker.tool_calls.named import read_arguments, read_until, set_name
from services.worker.tool_calls.shapes import CallShape, NamedBody
from services.worker.tool_calls.tags import Tags

CALLS_BEGIN: Final = "<｜tool▁calls▁begin｜>"  # noqa: RUF001
MARKER: Final = "<｜tool▁call▁begin｜>"  # noqa: RUF001
_SEPARATOR: Final = "<｜tool▁sep｜>"  # noqa: RUF001
_CALL_END: Final = "<｜tool▁call▁end｜>"  # noqa: RUF001
_CALLS_END: Final = "<｜tool▁calls▁end｜>"  # noqa: RUF001
_KIND: Final = "function"


def read_deepseek_call(reading: Reading) -> Generator[None, None, bool]:
    """Reads a call in either order of the header."""
    header = yield from read_until(reading, _SEPARATOR)
    name = header.strip()
    if name == _KIND and not reading.names.resolve(name).is_offered:
        yield
        name = ""
        while reading.reader.current not in {"\n", "`", "{", "<", END}:
            name += reading.reader.current
            yield
        set_name(reading, name)
    else:
        set_name(reading, name)
        yield
    yield from read_arguments(reading, (_CALL_END, _CALLS_END))
    return True


_DIALECT: Final = Dialect(
    Tags((CALLS_BEGIN,), forms=(MARKER,), closers=(_CALL_END, _CALLS_END)), {MARKER: read_deepseek_call}, (MARKER,)
)
_SPECIAL: Final = frozenset({CALLS_BEGIN, MARKER, _SEPARATOR, _CALL_END, _CALLS_END})
DEEPSEEK: Final = CallFormat(
    "deepseek",
    _DIALECT,
    CallShape(NamedBody(f'"{_SEPARATOR}"'), prefix=MARKER, suffix=_CALL_END, begin=CALLS_BEGIN, end=_CALLS_END),
    _SPECIAL,
)
DEEPSEEK_R1: Final = CallFormat(
    "deepseek-r1",
    _DIALECT,
    CallShape(
        NamedBody('"\\n```json\\n"'),
        prefix=f"{MARKER}{_KIND}{_SEPARATOR}",
        suffix=f"\n```{_CALL_END}",
        begin=CALLS_BEGIN,
        end=_CALLS_END,
        separator="\n",
    ),
    _SPECIAL,
)
