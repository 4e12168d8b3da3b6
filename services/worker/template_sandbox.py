"""The sandbox that chat templates run in: they come from model files, so they are foreign code."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any, Final, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_LOOP_ITEMS: Final = 100_000
_MAX_REPETITION_CHARS: Final = 1_000_000


class TemplateRefusalError(TemplateError):
    """The template itself refused the conversation."""


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja as chat templates expect it, with bounds on what multiplies work."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _GenerationBlocks],
        )
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise_exception

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Multiplies, unless the result would be huge."""
        for repeated, count in ((left, right), (right, left)):
            is_repetition = hasattr(repeated, "__len__") and isinstance(count, int)
            if is_repetition and len(repeated) * count > _MAX_REPETITION_CHARS:
                raise SecurityError("the chat template repeats a value too often")
        if operator == "**" and not abs(right) <= 64:
            raise SecurityError("the chat template computes too large a power")
        return super().call_binop(context, operator, left, right)


@cache
def takes_tools(source: str) -> bool:
    """Whether a template has a place for the tools that a request offers."""
    return any(kind == "name" and text == "tools" for _, kind, text in TemplateEnvironment().lex(source))


def bounded_range() -> Callable[..., range]:
    """Makes the `range` of one rendering: all its ranges together may have so many items, nested loops' too."""
    left = _MAX_LOOP_ITEMS

    def make_range(*arguments: int) -> range:
        nonlocal left
        made = range(*arguments)
        left -= len(made)
        if left < 0:
            raise SecurityError("the chat template loops too often")
        return made

    return make_range


class _GenerationBlocks(Extension):
    """Accepts `{% generation %}`, by which templates mark the assistant's text for training."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Keeps the body, drops the marks."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Writes JSON as models saw it in training: unlike Jinja's own filter without HTML escapes and in given order."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateRefusalError(message)
