"""How a format writes calls, told in a way that grammars can be made of."""

from dataclasses import dataclass
from typing import Final

from services.worker.tool_calls.markup import Markup


@dataclass(frozen=True, slots=True)
class JsonBody:
    """`{"name": …, "arguments": …}`, with its own key for the arguments."""

    arguments_key: str = "arguments"


@dataclass(frozen=True, slots=True)
class NamedBody:
    """A name, a separator (as GBNF), the JSON object of arguments."""

    separator: str


@dataclass(frozen=True, slots=True)
class MarkupBody:
    """A name up to its `name_close`, then an element for each parameter."""

    name_close: str
    markup: Markup
    line_break: str
    """What stands between elements."""


@dataclass(frozen=True, slots=True)
class CallShape:
    """Calls between `begin` and `end`, each between `prefix` and `suffix`."""

    body: JsonBody | NamedBody | MarkupBody
    prefix: str = ""
    suffix: str = ""
    begin: str = ""
    end: str = ""
    separator: str = ""


HERMES_SHAPE: Final = CallShape(JsonBody(), prefix="<tool_call>\n", suffix="\n</tool_call>", separator="\n")
