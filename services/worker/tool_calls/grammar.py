"""GBNF grammars of calls: of an answer that must call a function, and of a call that a model begins by itself."""

import json
import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest
from services.worker.gbnf import GrammarError
from services.worker.grammar import reduced_schema, schema_to_gbnf
from services.worker.grammar_check import check_grammar
from services.worker.harmony_channels import ANALYSIS, CHANNEL, MESSAGE
from services.worker.reasoning import HarmonyReasoning, Reasoning, ReasoningFormat
from services.worker.tool_calls.gbnf import literal, renamed, text_without
from services.worker.tool_calls.interface import Format
from services.worker.tool_calls.parameters import Parameters
from services.worker.tool_calls.shapes import CallShape, JsonBody, MarkupBody, NamedBody

_log = logging.getLogger(__name__)
_WHITE_SPACE: Final = 'ws ::= "" | " " | "\\n" [ \\t]{0,20}'
_REST: Final = "rest ::= [^\\x00]*"
_HARMONY_END: Final = "<|end|><|start|>assistant"
_Tools = tuple[tuple[str, str], ...]


def call_grammar(
    call_format: Format, tools: Sequence[pb.Tool], choice: pb.ToolChoice, *, parallel: bool, reasoning: Reasoning | None
) -> str:
    """The grammar of an answer that must call a function, perhaps after reasoning; nothing if the model may decide."""
    if choice.mode == pb.TOOL_CHOICE_MODE_NAMED:
        tools = [tool for tool in tools if tool.name == choice.name]
        if not tools:
            raise InvalidRequest(f"tool_choice names {choice.name!r}, which is not in tools.", param="tool_choice")
    elif choice.mode != pb.TOOL_CHOICE_MODE_REQUIRED:
        return ""
    if not tools:
        raise InvalidRequest("tool_choice requires a call, but tools is empty.", param="tools")
    shape = call_format.shape
    more = f"({literal(shape.separator)} call)*" if parallel else ""
    thoughts, thought_rules = _reasoning_rules(reasoning)
    root = f"root ::= {thoughts} {literal(shape.begin)} call {more} {literal(shape.end)}"
    return "\n".join([root, *thought_rules, _call_rules(shape, _key(tools))])


def first_call_grammar(call_format: Format, tools: Sequence[pb.Tool], *, reasoning: Reasoning | None) -> str:
    """The grammar of an answer that begins with a call, perhaps after reasoning, and then goes on as it likes."""
    shape = call_format.shape
    thoughts, thought_rules = _reasoning_rules(reasoning)
    root = f"root ::= {thoughts} {literal(shape.begin)} call rest"
    return "\n".join([root, _REST, *thought_rules, _call_rules(shape, _key(tools))])


def offered_call_grammar(call_format: Format, tools: Sequence[pb.Tool]) -> str:
    """The grammar of a call from its opening brace or marker on: an offered name, its arguments, then any text."""
    shape = call_format.shape
    rules = _call_rules(shape, _key(tools))
    start = "call"
    if not isinstance(shape.body, JsonBody):
        start = "call | call-json"
        rules += "\n" + renamed(_call_rules(CallShape(JsonBody()), _key(tools)), "-json")
    elif shape.prefix or shape.suffix:
        rules = _call_rules(CallShape(shape.body), _key(tools))
    return f"root ::= ({start}) rest\n{_REST}\n{rules}"


def _key(tools: Sequence[pb.Tool]) -> _Tools:
    return tuple((tool.name, tool.parameters_json) for tool in tools)


def _reasoning_rules(reasoning: Reasoning | None) -> tuple[str, list[str]]:
    """What may precede a call: reasoning that the prompt began must end, other reasoning may be left out."""
    if isinstance(reasoning, HarmonyReasoning):
        opening, closing = f"{CHANNEL}{ANALYSIS}{MESSAGE}", _HARMONY_END
    elif isinstance(reasoning, ReasoningFormat) and not reasoning.is_off:
        opening, closing = reasoning.open_tag, reasoning.close_tag
    else:
        return "", []
    rules = [text_without("thought", closing)]
    inner = f"thought {literal(closing)} [ \\n]*"
    return (inner, rules) if reasoning.starts_open else (f"({literal(opening)} {inner})?", rules)


@lru_cache(maxsize=64)
def _call_rules(shape: CallShape, tools: _Tools) -> str:
    """The rule `call` and those that it needs."""
    rules = _rules_of_tools(shape, tools)
    try:
        check_grammar(rules, root_name="call")
    except GrammarError as error:  # each can be held, but not all together
        _log.warning("arguments of all tools reduced to any object: %s", error)
        return _rules_of_tools(shape, tuple((name, "") for name, _ in tools))
    return rules


def _rules_of_tools(shape: CallShape, tools: _Tools) -> str:
    prefix, suffix = literal(shape.prefix), literal(shape.suffix)
    match shape.body:
        case JsonBody(arguments_key):
            bodies = [_WHITE_SPACE, *(_json_rules(index, tool, arguments_key) for index, tool in enumerate(tools))]
        case NamedBody(separator):
            bodies = [_named_rules(index, tool, separator) for index, tool in enumerate(tools)]
        case MarkupBody() as body:
            bodies = [_markup_rules(index, tool, body) for index, tool in enumerate(tools)]
    names = " | ".join(f"tool-{index}" for index in range(len(tools)))
    return "\n".join([f"call ::= {prefix} ({names}) {suffix}", *bodies])


def _json_rules(index: int, tool: tuple[str, str], arguments_key: str) -> str:
    name, parameters = tool
    members = (
        f'{literal(json.dumps("name"))} ws ":" ws {literal(json.dumps(name, ensure_ascii=False))} ws '
        f'"," ws {literal(json.dumps(arguments_key))} ws ":" ws root-of-{index}'
    )
    return f'tool-{index} ::= "{{" ws {members} ws "}}"\n{_argument_rules(index, parameters)}'


def _argument_rules(index: int, parameters: str) -> str:
    """The rule `root-of-…` of a tool's arguments."""
    return schema_to_gbnf(reduced_schema(parameters), root_name=f"root-of-{index}")


def _named_rules(index: int, tool: tuple[str, str], separator: str) -> str:
    name, parameters = tool
    return f"tool-{index} ::= {literal(name)} {separator} root-of-{index}\n{_argument_rules(index, parameters)}"


def _markup_rules(index: int, tool: tuple[str, str], body: MarkupBody) -> str:
    """A name, then the parameters in the schema's order, of which the optional ones may be left out."""
    name, parameters = tool
    schema = reduced_schema(parameters)
    properties = schema.get("properties") or {}
    required = schema.get("required") or []
    known = Parameters(json.dumps(schema))
    elements, rules = [], []
    for position, key in enumerate(properties):
        rule = f"p-{index}-{position}"
        elements.append(rule if key in required else f"{rule}?")
        rules.append(
            _parameter_rules(rule, key, known.types(key), {**_definitions(schema), **_object(properties[key])}, body)
        )
    opening = literal(body.name_close + ("" if body.name_close == body.line_break else body.line_break))
    return "\n".join([f"tool-{index} ::= {literal(name)} {opening} {' '.join(elements)}", *rules])


def _parameter_rules(rule: str, key: str, types: frozenset[str], schema: dict[str, Any], body: MarkupBody) -> str:
    markup = body.markup
    line = "\n" if markup.has_value_on_own_lines else ""
    gap = body.line_break if markup.value else ""
    opening = f"{markup.parameter}{key}{markup.key_close}{gap}{markup.value}{line}"
    closing = f"{line}{markup.value_close}"
    if "string" in types and "enum" not in schema and "const" not in schema:
        value, value_rules = f"{rule}-text", text_without(f"{rule}-text", markup.value_close)
    elif "string" in types:
        choices = schema.get("enum") or [schema.get("const")]
        value, value_rules = f"({' | '.join(literal(_plain(choice)) for choice in choices)})", ""
    else:
        value, value_rules = f"root-{rule}", schema_to_gbnf(schema, root_name=f"root-{rule}")
    return f"{rule} ::= {literal(opening)} {value} {literal(closing + body.line_break)}\n{value_rules}".rstrip()


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _definitions(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
