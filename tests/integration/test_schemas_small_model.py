"""A real model at a temperature where it babbles still gives documents, texts and calls of the shape asked for."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.fakes.edge import serving_edge
from tests.fakes.json_schemas import EXAMPLES, Example, follows
from tests.fakes.local_worker import serving_worker

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1800),
    pytest.mark.asyncio(loop_scope="module"),
]

BABBLING = {"temperature": 1.5, "top_p": 1, "top_k": 0, "min_p": 0}
INVENT = "Answer with a JSON document of your own invention."

WORD = {"type": "string", "maxLength": 16}
SCHEMAS: list[Any] = [
    {"enum": ["red", "green", None, 7]},
    {"type": "integer", "minimum": 10, "exclusiveMaximum": 1000},
    {"type": "number", "minimum": -1, "maximum": 1},
    {"type": "string", "format": "date-time"},
    {"type": "string", "pattern": "^[A-Z][a-z]{2,8}( [A-Z][a-z]{2,8})?$"},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {"prefixItems": [WORD, {"type": "integer", "minimum": 0, "maximum": 9}], "minItems": 2, "type": "array"},
    {"type": "object", "properties": {"name": WORD, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
     "required": ["name", "age"]},
    {"type": "object", "properties": {"a": WORD, "b": WORD, "c": WORD}, "required": ["b"]},
    {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"]}]},
    {"type": "object", "maxProperties": 3, "additionalProperties": {"type": "boolean"},
     "propertyNames": {"pattern": "^[a-z]{1,8}$"}},
    {"$ref": "#/$defs/node", "$defs": {"node": {
        "type": "object", "properties": {"value": {"enum": [1, 2]}, "next": {"anyOf": [
            {"type": "null"}, {"type": "object", "properties": {"value": {"enum": [3]}}, "required": ["value"]}]}},
        "required": ["value", "next"]}}},
]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(small_model: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving_worker(small_model, threads=2, context=4096) as address,
        serving_edge(address) as url,
        httpx.AsyncClient(base_url=url, timeout=900, trust_env=False) as client,
    ):
        yield client


async def answer(client: httpx.AsyncClient, text: str, **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 400, **BABBLING, **fields}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    return dict(choice)


async def documents(client: httpx.AsyncClient, schemas: list[Any], **fields: Any) -> list[dict[str, Any]]:
    """Asks for a document of each schema, all at once."""
    formats = [
        {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}} for schema in schemas
    ]
    asked = (answer(client, INVENT, response_format=one, seed=n, **fields) for n, one in enumerate(formats))
    return await asyncio.gather(*asked)


async def test_documents_follow_their_schemas_at_temperature_1_5(client: httpx.AsyncClient) -> None:
    for schema, check, choice in zip(SCHEMAS, CHECKS, await documents(client, SCHEMAS), strict=True):
        document = json.loads(choice["message"]["content"])
        assert choice["finish_reason"] == "stop", schema
        assert check(document), (schema, document)


def bounded(schema: Any) -> Any:
    """A schema whose texts and lists end soon, and whose objects have no members but those named."""
    if not isinstance(schema, dict):
        return schema
    changed = dict(schema)
    if "properties" in schema:
        changed["properties"] = {name: bounded(part) for name, part in schema["properties"].items()}
    if "anyOf" in schema:
        changed["anyOf"] = [bounded(part) for part in schema["anyOf"]]
    if "items" in schema:
        changed["items"] = bounded(schema["items"])
    if schema.get("type") == "string" and "pattern" not in schema:
        changed.setdefault("maxLength", 8)
    if schema.get("type") == "array":
        changed.setdefault("maxItems", max(3, schema.get("minItems", 0)))
    if "additionalProperties" in schema:
        changed["additionalProperties"] = False
    return changed


@settings(max_examples=4, derandomize=True, phases=[Phase.generate], database=None)
@given(examples=st.lists(EXAMPLES, min_size=8, max_size=8))
async def test_whatever_the_schema_a_document_that_is_finished_follows_it(
    client: httpx.AsyncClient, examples: list[Example]
) -> None:
    schemas = [bounded(example.schema) for example in examples]
    finished = 0
    for schema, choice in zip(schemas, await documents(client, schemas, max_tokens=80), strict=True):
        if choice["finish_reason"] == "stop":
            finished += 1
            assert follows(json.loads(choice["message"]["content"]), schema), (schema, choice)
    assert finished >= len(schemas) / 2  # the others babble in a text whose pattern allows any length


@pytest.mark.parametrize(
    "pattern", [r"\d{3}-[a-f]{2}", r"(yes|no), because [a-z ]{5,20}\.", "[\u00e9\u00fc\u4f60]{4}", r"v\d+\.\d+\.\d+"]
)
async def test_a_regular_expression_holds_at_temperature_1_5(client: httpx.AsyncClient, pattern: str) -> None:
    choice = await answer(client, "Say something.", guided_regex=pattern, max_tokens=60)
    text = choice["message"]["content"]
    assert re.fullmatch(pattern, text) or choice["finish_reason"] == "length", text


async def test_a_grammar_of_ones_own_holds_and_a_wrong_one_is_told_its_place(client: httpx.AsyncClient) -> None:
    sums = 'root ::= term (" + " term){2} " = ?"\nterm ::= [1-9] [0-9]?'
    assert re.fullmatch(r"[1-9]\d?( \+ [1-9]\d?){2} = \?", (await said(client, grammar=sums)))
    body = {"messages": [{"role": "user", "content": "Hi"}], "grammar": "root ::= term\nterm ::= [1-9"}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "line 2, column 10" in response.json()["error"]["message"]


async def said(client: httpx.AsyncClient, **fields: Any) -> str:
    return str((await answer(client, "Say something.", **fields))["message"]["content"])


def _is_date_time(text: str) -> bool:
    return len(text) >= 20 and text[10] == "T"


CHECKS: list[Any] = [
    lambda it: it in ("red", "green", None, 7),
    lambda it: type(it) is int and 10 <= it < 1000,
    lambda it: -1 <= it <= 1,
    _is_date_time,
    lambda it: it.istitle() and it.replace(" ", "").isalpha(),
    lambda it: 2 <= len(it) <= 4 and all(type(item) is bool for item in it),
    lambda it: len(it) == 2 and len(it[0]) <= 16 and it[1] in range(10),
    lambda it: set(it) == {"name", "age"} and it["age"] in range(151),
    lambda it: {"b"} <= set(it) <= {"a", "b", "c"},
    lambda it: it is None or it == {"x": 1},
    lambda it: len(it) <= 3 and all(type(value) is bool and name.isalpha() for name, value in it.items()),
    lambda it: it["value"] in (1, 2) and it["next"] in (None, {"value": 3}),
]


WHERE = {"type": "string", "maxLength": 24}
TOOLS: dict[str, Any] = {
    "read": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "filePath": WHERE,
            "offset": {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
            "limit": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991},
        },
        "required": ["filePath", "limit"],
        "additionalProperties": False,
    },
    "todowrite": {
        "type": "object",
        "properties": {"todos": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"$ref": "#/$defs/todo"}}},
        "required": ["todos"],
        "additionalProperties": False,
        "$defs": {
            "todo": {
                "type": "object",
                "properties": {
                    "content": WHERE,
                    "status": {"enum": ["pending", "completed"]},
                    "priority": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 5}, {"type": "null"}]},
                },
                "required": ["content", "status", "priority"],
                "additionalProperties": False,
            }
        },
    },
    "checkout": {
        "type": "object",
        "properties": {
            "branch": {"type": "string", "pattern": "^[a-z]{2,9}(/[a-z]{2,9})?$"},
            "commit": {"type": "string", "pattern": "^(?!0{7})[0-9a-f]{7}$", "maxLength": 9},
            "depth": {"type": ["integer", "null"], "minimum": 1, "maximum": 99, "multipleOf": 2},
        },
        "required": ["branch", "depth"],
        "additionalProperties": False,
    },
}
"""What clients send: a dialect, limits of JavaScript's integers, references, patterns that no grammar can hold."""


def _is_call(name: str, arguments: dict[str, Any]) -> bool:
    if name == "read":
        in_range = type(arguments["limit"]) is int and 0 < arguments["limit"] < 2**53
        return in_range and len(arguments["filePath"]) <= 24 and set(arguments) <= {"filePath", "offset", "limit"}
    if name == "todowrite":
        return 1 <= len(arguments["todos"]) <= 2 and all(
            set(todo) == {"content", "status", "priority"} and todo["status"] in ("pending", "completed")
            and todo["priority"] in (None, 1, 2, 3, 4, 5) for todo in arguments["todos"]
        )  # fmt: skip
    depth_fits = arguments["depth"] is None or 1 <= arguments["depth"] <= 99
    return bool(re.fullmatch("[a-z]{2,9}(/[a-z]{2,9})?", arguments["branch"])) and depth_fits


async def calls(client: httpx.AsyncClient, choice: Any, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in TOOLS.items()]
    text = "Use your tools to look at the project, several at once."
    answered = await answer(client, text, tools=tools, tool_choice=choice, max_tokens=600, **fields)
    made = answered["message"].get("tool_calls") or []
    if choice == "required" and len(made) > 1 and answered["finish_reason"] == "length":
        made.pop()  # it was cut while it went on and on calling
    else:
        assert (answered["finish_reason"] == "tool_calls") == bool(made), answered
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in made]


@pytest.mark.parametrize("name", TOOLS)
async def test_a_tool_that_is_named_is_called_as_its_schema_says(client: httpx.AsyncClient, name: str) -> None:
    choice = {"type": "function", "function": {"name": name}}
    made = await asyncio.gather(*(calls(client, choice, seed=seed, parallel_tool_calls=False) for seed in range(3)))
    for [(called, arguments)] in made:
        assert called == name
        assert _is_call(name, arguments), arguments


@pytest.mark.parametrize("parallel", [False, True])
async def test_some_tool_is_called_where_one_must_be(client: httpx.AsyncClient, parallel: bool) -> None:
    asked = (calls(client, "required", seed=seed, parallel_tool_calls=parallel) for seed in range(4))
    for made in await asyncio.gather(*asked):
        assert made
        assert parallel or len(made) == 1
        assert all(_is_call(name, arguments) for name, arguments in made), made


async def test_no_tool_is_called_where_none_may_be(client: httpx.AsyncClient) -> None:
    assert await calls(client, "none", seed=1) == []
