"""GBNF grammars for response formats."""

import copy
import json
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest
from services.worker.gbnf import GrammarError
from services.worker.grammar_check import check_grammar
from services.worker.json_schema import Unheld, translate
from services.worker.regex_grammar import RegexError, regex_to_gbnf
from services.worker.schema_documents import SchemaError

_log = logging.getLogger(__name__)
_ANY_OBJECT: Final[dict[str, Any]] = {"type": "object"}
_OWN_RESOURCE: Final = "localcode:arguments"
_HOLDERS_OF_SCHEMAS: Final = ("properties", "patternProperties", "$defs", "definitions")
_MAX_REDUCTIONS: Final = 50


def response_grammar(response_format: pb.ResponseFormat) -> str:
    """The grammar of a response format, or nothing for free text. Refuses with the place what can't be held."""
    match response_format.WhichOneof("format"):
        case "json_object":
            return schema_to_gbnf(_ANY_OBJECT)
        case "json_schema":
            return _schema_grammar(response_format.json_schema, is_strict=response_format.strict)
        case "grammar":
            return _checked(response_format.grammar)
        case "regex":
            return _regex_grammar(response_format.regex)
    return ""


def schema_to_gbnf(schema: object, *, root_name: str = "root") -> str:
    """Translates a JSON Schema; all rules are named `root_name` or begin with it and a hyphen.

    Keywords that no grammar can hold are left out. Raises `SchemaError`, a `ValueError`, with a JSON pointer.
    """
    return _translated(schema, root_name)[0]


@lru_cache(maxsize=256)
def _reduced(text: str) -> str:
    try:
        schema = json.loads(text) if text else _ANY_OBJECT
    except (ValueError, RecursionError) as error:
        _log.warning("schema of a tool reduced to any object: %s", error)
        return json.dumps(_ANY_OBJECT)
    if not isinstance(schema, dict):
        return json.dumps(_ANY_OBJECT)
    for _ in range(_MAX_REDUCTIONS):
        try:
            _, unheld = _translated(schema, "root")
        except SchemaError as error:
            _log.warning("schema of a tool reduced: %s", error)
            if not _drop(schema, error.path):
                break
        else:
            if unheld:
                _log.info("schema of a tool is not held in all: %s", _listed(unheld))
            return json.dumps(_self_contained(schema))
    _log.warning("schema of a tool reduced to any object")
    return json.dumps(_ANY_OBJECT)


def reduced_schema(text: str) -> dict[str, Any]:
    """A tool's schema as far as it can be translated: offending keywords are dropped, and the log says which and why.

    Never fails. The result can stand inside another schema: its references stay within itself.
    """
    return dict(json.loads(_reduced(text)))


@lru_cache(maxsize=64)
def _schema_grammar(text: str, *, is_strict: bool) -> str:
    param = "response_format.json_schema"
    try:
        grammar, unheld = _translated(json.loads(text), "root")
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The schema can't be used. {error}", param=param) from error
    if unheld and is_strict:
        raise InvalidRequest(f"The schema can't be held strictly. {_listed(unheld)}", param=param)
    if unheld:
        _log.info("schema of a response is not held in all: %s", _listed(unheld))
    return grammar


@lru_cache(maxsize=64)
def _checked(grammar: str) -> str:
    try:
        check_grammar(grammar)
    except GrammarError as error:
        raise InvalidRequest(f"The grammar can't be used: {error}.", param="grammar") from error
    return grammar


@lru_cache(maxsize=64)
def _regex_grammar(pattern: str) -> str:
    try:
        grammar = f"root ::= {regex_to_gbnf(pattern)}\n"
        check_grammar(grammar)
    except (RegexError, GrammarError, RecursionError) as error:
        raise InvalidRequest(f"The regular expression can't be used: {error}.", param="response_format") from error
    return grammar


def _translated(schema: object, root_name: str) -> tuple[str, list[Unheld]]:
    try:
        grammar, unheld = translate(schema, root_name=root_name)
        check_grammar(grammar, root_name=root_name)
    except GrammarError as error:
        message = re.sub(r"^line \d+, column \d+: ", "", str(error))
        raise SchemaError(f"the schema makes an unusable grammar: {message}", ()) from error
    except RecursionError as error:
        raise SchemaError("the schema is nested too deep", ()) from error
    return grammar, unheld


def _drop(schema: dict[str, Any], path: Sequence[str | int]) -> bool:
    """Drops what stands at a place, or at the nearest place above it that exists; false if that is the whole."""
    parent: Any = None
    holder: Any = None
    last: Any = ""
    place: Any = schema
    for step in path:
        known: Any = place if isinstance(place, dict) else dict(enumerate(place)) if isinstance(place, list) else {}
        if step not in known:
            break
        holder, parent, last, place = last, place, step, known[step]
    if parent is None:
        return False
    if isinstance(parent, list) or holder in _HOLDERS_OF_SCHEMAS:
        parent[last] = True
    else:
        del parent[last]
    return True


def _self_contained(schema: dict[str, Any]) -> dict[str, Any]:
    contained = copy.deepcopy(schema)
    if "$ref" in json.dumps(contained):
        contained.setdefault("$id", _OWN_RESOURCE)
    return contained


def _listed(unheld: Sequence[Unheld]) -> str:
    return "; ".join(dict.fromkeys(map(str, unheld)))
