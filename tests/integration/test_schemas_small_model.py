"""A real model at a temperature where it babbles still gives documents that follow their schemas."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.edge import serving_edge
from tests.fakes.local_worker import serving_worker

pytestmark = pytest.mark.integration

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


@pytest.fixture
async def client(small_model: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving_worker(small_model, threads=2, context=2048) as address,
        serving_edge(address) as url,
        httpx.AsyncClient(base_url=url, timeout=240, trust_env=False) as client,
    ):
        yield client


async def test_documents_follow_their_schemas_at_temperature_1_5(client: httpx.AsyncClient) -> None:
    for number, schema in enumerate(SCHEMAS):
        body = {
            "messages": [{"role": "user", "content": "Answer with a JSON document of your own invention."}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}},
            "temperature": 1.5, "top_p": 1, "top_k": 0, "seed": number, "max_tokens": 400,
        }  # fmt: skip
        response = await client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        [choice] = response.json()["choices"]
        document = json.loads(choice["message"]["content"])
        assert choice["finish_reason"] == "stop", schema
        assert CHECKS[number](document), (schema, document)


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
