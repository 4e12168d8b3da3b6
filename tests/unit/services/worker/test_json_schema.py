import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.worker.grammar import reduced_schema, schema_to_gbnf
from services.worker.json_schema import translate
from services.worker.schema_documents import SchemaError
from tests.fakes.gbnf_recogniser import Recogniser
from tests.fakes.json_schemas import EXAMPLES, Example, follows

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def accepts(schema: Any, document: Any, **dump: Any) -> bool:
    return Recogniser(schema_to_gbnf(schema)).accepts(json.dumps(document, ensure_ascii=False, **dump))


@SLOW
@given(example=EXAMPLES, is_pretty=st.booleans())
def test_documents_that_follow_the_schema_are_accepted(example: Example, is_pretty: bool) -> None:
    assert accepts(example.schema, example.document, indent=2 if is_pretty else None)


@SLOW
@given(example=EXAMPLES, data=st.data())
def test_what_is_accepted_follows_the_schema(example: Example, data: st.DataObject) -> None:
    text = json.dumps(example.document, ensure_ascii=False)
    place = data.draw(st.integers(0, len(text)))
    other = data.draw(st.sampled_from(["", '"', "0", "5", "a", ",", "}", "]", "null", "1.5", "\\", '"a": 1', "\n"]))
    mutated = text[:place] + other + text[place + data.draw(st.integers(0, 3)) :]
    if Recogniser(schema_to_gbnf(example.schema)).accepts(mutated):
        assert follows(json.loads(mutated), example.schema)


TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "accepted", "refused"),
    [
        (TREE, [{"value": 1, "children": [{"value": 2}]}], [{"children": []}, {"value": 1, "children": [3]}]),
        ({"type": "object"}, [{}, {"a": [1, {"b": None}]}], [[], 1]),
        (True, [1, "a", None, {"a": []}], []),
        ({"type": ["string", "null"]}, ["a", None], [1]),
        ({"type": "string", "nullable": True}, ["a", None], [1]),
        ({"const": {"a": [1, "x"]}}, [{"a": [1, "x"]}], [{"a": [1]}]),
        ({"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]}, [5, "a"], ["ab", None]),
        (
            {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}}, {"required": ["a"]}]},
            [{"a": "x"}],
            [{}],
        ),
        ({"allOf": [{"type": "number", "minimum": 1}, {"type": "integer", "maximum": 3}]}, [1, 3], [0, 4, 1.5]),
        (
            {"type": "object", "properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
            [{"a": 1}, {"b": 1}, {"a": 1, "b": 2}],
            [{}],
        ),
        ({"properties": {"a": {"type": "integer"}}, "additionalProperties": False}, [{}, {"a": 1}], [{"b": 1}, "x"]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, [{"x": 1, "y": 2}], [{"x": "y"}]),
        ({"type": "object", "minProperties": 1, "maxProperties": 2}, [{"a": 1}, {"a": 1, "b": 1}], [{}]),
        ({"type": "object", "patternProperties": {"^x-": {"type": "integer"}}}, [{"x-a": 1}], [{"a": 1}, {"x-a": "b"}]),
        ({"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}}, [{"ab": 1}], [{"A": 1}]),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, [{"a": 1, "b": 2}, {"b": 2}], [{"a": 1}]),
        ({"prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 1}, [[1], [1, "a"]], [[], ["a"]]),
        ({"items": [{"type": "integer"}], "additionalItems": {"type": "null"}}, [[], [1], [1, None]], [[None]]),
        ({"type": "string", "format": "date"}, ["2024-02-28", "1999-12-31"], ["2024-02-30", "2024-13-01", "x"]),
        ({"type": "string", "format": "date-time"}, ["2024-02-28T10:00:00Z"], ["2024-02-28", "2024-02-28T25:00:00Z"]),
        ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123"]),
        ({"type": "string", "format": "ipv4"}, ["192.168.0.1"], ["256.1.1.1", "1.2.3"]),
        ({"type": "string", "format": "email"}, ["a.b@example.org"], ["a@", "@b.c"]),
        ({"type": "string", "minLength": 600, "maxLength": 1200}, ["x" * 600, "x" * 1200], ["x" * 599, "x" * 1201]),
        ({"type": "integer", "minimum": -9007199254740991, "exclusiveMinimum": 0}, [1, 77], [0, -1]),
        ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, [1], [0]),
        ({"enum": ["a", 1], "type": "string"}, ["a"], [1]),
        ({"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"type": "null"}}}, [None], [1]),
    ],
)
def test_keywords_hold(schema: Any, accepted: list[Any], refused: list[Any]) -> None:
    recogniser = Recogniser(schema_to_gbnf(schema))
    assert [document for document in accepted if not recogniser.accepts(json.dumps(document))] == []
    assert [document for document in refused if recogniser.accepts(json.dumps(document))] == []


def test_rules_keep_to_the_name_they_are_given() -> None:
    grammar = schema_to_gbnf(TREE, root_name="call")
    assert all(line.startswith(("call ::=", "call-")) for line in grammar.splitlines())


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"type": "object", "properties": {"a": {"type": "strin"}}}, "#/properties/a/type"),
        ({"type": "array", "items": {"pattern": "(?=x)"}}, "#/items/pattern"),
        ({"properties": {"a/b": {"$ref": "#/nowhere"}}}, "#/properties/a~1b/$ref"),
        ({"$ref": "https://example.org/schema"}, "#/$ref"),
        ({"anyOf": [{"type": "string"}, 5]}, "#/anyOf/1"),
        ({"anyOf": []}, "#/anyOf"),
        ({"required": "a"}, "#/required"),
        ({"type": "string", "minLength": -1}, "#/minLength"),
        ({"type": "string", "maxLength": 10**9}, "#/maxLength"),
        ({"type": "array", "maxItems": 10**9}, "#/maxItems"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "#"),
        ({"type": "string", "minLength": 5, "maxLength": 4}, "#/maxLength"),
        ({"properties": {"x": False}, "required": ["x"]}, "#/properties/x"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "#/$ref"),
        ({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {}]}}, "$ref": "#/$defs/a"}, "#"),
        (5, "#"),
    ],
)
def test_a_fault_is_named_by_its_pointer(schema: Any, pointer: str) -> None:
    with pytest.raises(SchemaError) as caught:
        schema_to_gbnf(schema)
    assert caught.value.pointer == pointer
    assert str(caught.value).startswith(f"{pointer}: ")


@pytest.mark.parametrize(
    ("keywords", "unheld"),
    [
        ({"type": "array", "uniqueItems": True}, ["#/uniqueItems"]),
        ({"type": "array", "uniqueItems": False}, []),
        ({"type": "integer", "multipleOf": 5}, ["#/multipleOf"]),
        ({"type": "string", "not": {"const": "x"}}, ["#/not"]),
        ({"type": "string", "pattern": "^a", "maxLength": 3}, ["#/maxLength"]),
        ({"type": "string", "title": "t", "description": "d", "default": "x", "$schema": "s"}, []),
    ],
)
def test_what_no_grammar_holds_is_reported(keywords: Any, unheld: list[str]) -> None:
    assert [str(one).split(": ")[0] for one in translate(keywords)[1]] == unheld


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"anyOf": [{"minimum": j} for j in range(10)]} for _ in range(10)]},
        {"$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 9} for i in range(50)}, "$ref": "#/$defs/d0"},
        json.loads('{"items":' * 900 + "{}" + "}" * 900),
        {"anyOf": [{"type": "string", "maxLength": 200_000 - i} for i in range(500)]},
        {
            "properties": {
                f"p{i}": {"type": "object", "properties": {f"q{j}": {} for j in range(50)}} for i in range(200)
            }
        },
    ],
)
def test_hostile_schemas_end_soon(schema: Any) -> None:
    started = time.process_time()
    with suppress(SchemaError):
        schema_to_gbnf(schema)
    reduced_schema(json.dumps(schema))
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    ("schema", "reduced"),
    [
        ({"type": "object", "properties": {"a": {"type": "strin"}, "b": {"type": "null"}}},
         {"type": "object", "properties": {"a": {}, "b": {"type": "null"}}}),
        ({"properties": {"a": {"type": "string", "pattern": "(?=x)"}}}, {"properties": {"a": {"type": "string"}}}),
        ({"properties": {"a": 5}}, {"properties": {"a": True}}),
        ({"properties": {"a": {"$ref": "#/x", "type": "string"}}}, {"properties": {"a": {"type": "string"}}}),
        ({"type": "object", "properties": {"a": {"anyOf": [{"minLength": -1}]}}},
         {"type": "object", "properties": {"a": {"anyOf": [{}]}}}),
    ],
)  # fmt: skip
def test_only_the_offending_keyword_of_a_tool_is_dropped(schema: Any, reduced: Any) -> None:
    assert reduced_schema(json.dumps(schema)) == reduced


@pytest.mark.parametrize("text", ["", "5", "true", "not json", "[]", '{"type":"strin'])
def test_what_is_no_schema_becomes_any_object(text: str) -> None:
    assert reduced_schema(text) == {"type": "object"}


def test_a_reduced_schema_can_stand_inside_another_one() -> None:
    inside = {
        "type": "object",
        "properties": {"arguments": reduced_schema(json.dumps(TREE))},
        "required": ["arguments"],
    }
    assert accepts(inside, {"arguments": {"value": 1, "children": [{"value": 2}]}})
    assert not accepts(inside, {"arguments": {"value": "x"}})
