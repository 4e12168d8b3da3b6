"""GBNF grammars for response formats and for calls that must be made (`tool_choice` required or named)."""

import json
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from llama_cpp.llama_grammar import JSON_GBNF, json_schema_to_gbnf

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest

_log = logging.getLogger(__name__)
_CALL_START: Final = '"<tool_call>\\n"'
_CALL_END: Final = '"\\n</tool_call>"'
_ANY_OBJECT: Final[dict[str, Any]] = {"type": "object"}


def response_grammar(response_format: pb.ResponseFormat) -> str:
    """The grammar of a response format, or nothing for free text."""
    match response_format.WhichOneof("format"):
        case "json_object":
            return JSON_GBNF
        case "json_schema":
            return _schema_grammar(response_format.json_schema)
        case "grammar":
            return response_format.grammar
    return ""


def call_grammar(tools: Sequence[pb.Tool], choice: pb.ToolChoice, *, parallel: bool) -> str:
    """The grammar of an answer that must call a function, in the Hermes form; nothing if the model may decide."""
    if choice.mode == pb.TOOL_CHOICE_MODE_NAMED:
        tools = [tool for tool in tools if tool.name == choice.name]
        if not tools:
            raise InvalidRequest(f"tool_choice names {choice.name!r}, which is not in tools.", param="tool_choice")
    elif choice.mode != pb.TOOL_CHOICE_MODE_REQUIRED:
        return ""
    if not tools:
        raise InvalidRequest("tool_choice requires a call, but tools is empty.", param="tools")
    rules = _offered_call_rules(tuple((tool.name, tool.parameters_json) for tool in tools))
    more = f' ("\\n" {_CALL_START} call {_CALL_END})*' if parallel else ""
    return f"root ::= {_CALL_START} call {_CALL_END}{more}\n{rules}"


@lru_cache(maxsize=64)
def _offered_call_rules(tools: tuple[tuple[str, str], ...]) -> str:
    calls = [_call_schema(pb.Tool(name=name, parameters_json=parameters)) for name, parameters in tools]
    return re.sub(r"^root ::=", "call ::=", _schema_to_gbnf({"anyOf": calls}), flags=re.MULTILINE)


def offered_call_grammar(tools: Sequence[pb.Tool]) -> str:
    """The grammar from a call's opening brace on: an offered name, arguments of its schema, then any text."""
    rules = _offered_call_rules(tuple((tool.name, tool.parameters_json) for tool in tools))
    return f"root ::= call rest\nrest ::= [^\\x00]*\n{rules}"


def _call_schema(tool: pb.Tool) -> dict[str, Any]:
    arguments = _compilable(tool)
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": arguments},
        "required": ["name", "arguments"],
    }


def _compilable(tool: pb.Tool) -> dict[str, Any]:
    """The tool's own schema, or any object where llama.cpp's converter can't take it."""
    try:
        schema = json.loads(tool.parameters_json) if tool.parameters_json else _ANY_OBJECT
        _schema_to_gbnf(schema)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, AssertionError) as error:
        _log.warning("schema of tool %s reduced to any object: %s", tool.name, error)
        return _ANY_OBJECT
    return dict(schema)


def _schema_grammar(text: str) -> str:
    try:
        return _schema_to_gbnf(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, AssertionError) as error:
        raise InvalidRequest(f"The schema can't be compiled: {error}", param="response_format.json_schema") from error


def _schema_to_gbnf(schema: object) -> str:
    return str(json_schema_to_gbnf(json.dumps(schema), prop_order=["name", "arguments"]))
