"""GBNF grammars for response formats."""

import json

from llama_cpp.llama_grammar import JSON_GBNF, json_schema_to_gbnf

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest


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


def _schema_grammar(text: str) -> str:
    try:
        return schema_to_gbnf(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, AssertionError) as error:
        raise InvalidRequest(f"The schema can't be compiled: {error}", param="response_format.json_schema") from error


def schema_to_gbnf(schema: object) -> str:
    """Turns a JSON schema into a grammar whose first rule is `root`; raises what the converter does."""
    return str(json_schema_to_gbnf(json.dumps(schema), prop_order=["name", "arguments"]))
