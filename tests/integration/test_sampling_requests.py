"""What a request can ask, from HTTP through a real edge and a real worker to llama.cpp's samplers and grammars."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.edge import serving_edge
from tests.fakes.local_worker import serving_worker
from tests.fakes.scripts import GREETING, JSON_ANSWER

pytestmark = pytest.mark.integration

PEOPLE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.fixture
async def client(scripted_chat_model: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving_worker(scripted_chat_model) as address,
        serving_edge(address) as url,
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client,
    ):
        yield client


async def ask(client: httpx.AsyncClient, text: str = "Hi", **fields: Any) -> httpx.Response:
    messages = [{"role": "user", "content": text}]
    return await client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 800, **fields})


async def answer(client: httpx.AsyncClient, text: str = "Hi", **fields: Any) -> dict[str, Any]:
    response = await ask(client, text, **fields)
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


async def said(client: httpx.AsyncClient, text: str = "Hi", **fields: Any) -> str:
    return str((await answer(client, text, **fields))["message"]["content"])


async def refusal(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await ask(client, **fields)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"top_k": 5, "top_p": 0.9, "min_p": 0.05, "typical_p": 0.95, "min_keep": 1},
        {"top_n_sigma": 1.0},
        {"xtc_probability": 0.0, "xtc_threshold": 0.1},
        {"dry_multiplier": 0.1, "dry_base": 1.1, "dry_allowed_length": 50, "dry_sequence_breakers": ["\n", "!"]},
        {"mirostat": 1, "mirostat_tau": 1.0, "mirostat_eta": 0.1},
        {"mirostat": 2, "mirostat_tau": 1.0},
        {"dynatemp_range": 0.2, "dynatemp_exponent": 1.0},
        {"repeat_penalty": 1.01, "repeat_last_n": 10, "frequency_penalty": 0.1, "presence_penalty": 0.1},
        {"samplers": ["top_k", "temperature"], "top_k": 3},
        {"samplers": ["top_k", "infill", "temperature", "adaptive_p"], "adaptive_target": 0.9},
    ],
)
async def test_each_sampler_is_taken_and_leaves_a_certain_answer_alone(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    assert await said(client, **fields) == GREETING


async def test_a_bias_on_the_end_cuts_or_forbids(client: httpx.AsyncClient) -> None:
    endless = await answer(client, ignore_eos=True, max_tokens=30, temperature=0)
    assert (endless["finish_reason"], endless["message"]["content"][: len(GREETING)]) == ("length", GREETING)
    assert await said(client, logit_bias={"2": 100}) == ""


async def test_a_seed_reproduces(client: httpx.AsyncClient) -> None:
    fields: dict[str, Any] = {"temperature": 50, "top_p": 1, "top_k": 0, "max_tokens": 12, "ignore_eos": True}
    first = await said(client, **fields, seed=3)
    assert await said(client, **fields, seed=3) == first
    assert await said(client, **fields, seed=4) != first


async def test_choices_share_one_prefill_and_count_their_seeds_up(client: httpx.AsyncClient) -> None:
    fields: dict[str, Any] = {"temperature": 50, "top_p": 1, "top_k": 0, "max_tokens": 12, "ignore_eos": True}
    prompt = "word " * 400
    stream = await ask(client, prompt, **fields, n=3, seed=7, stream=True)
    chunks = [json.loads(line[6:]) for line in stream.text.split("\n\n") if line.startswith("data: {")]
    timings = [chunk["timings"] for chunk in chunks if "timings" in chunk]
    assert len(timings) == 3
    prompt_count = timings[0]["prompt_n"] + timings[0]["cache_n"]
    assert sum(one["prompt_n"] for one in timings) <= prompt_count + 2
    texts = ["".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"][0]["index"] == i)
             for i in range(3)]  # fmt: skip
    assert len(set(texts)) == 3


@pytest.mark.parametrize("temperature", [0, 1.5, 100])
async def test_a_schema_holds_at_any_temperature(client: httpx.AsyncClient, temperature: float) -> None:
    document = json.loads(await said(client, json_schema=PEOPLE, temperature=temperature))
    assert document["kind"] in ("cat", "dog")
    assert document["age"] in range(121)
    assert len(document["name"]) <= 12


async def test_any_object_is_an_object(client: httpx.AsyncClient) -> None:
    text = await said(client, "Answer in JSON", response_format={"type": "json_object"})
    assert json.loads(text) == json.loads(JSON_ANSWER)


@pytest.mark.parametrize(
    "fields",
    [{"guided_regex": r"\d{3}-[a-f]{2}"}, {"response_format": {"type": "regex", "pattern": r"\d{3}-[a-f]{2}"}}],
)
async def test_a_regular_expression_holds(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    assert re.fullmatch(r"\d{3}-[a-f]{2}", await said(client, **fields, temperature=3))


async def test_a_choice_holds(client: httpx.AsyncClient) -> None:
    assert await said(client, guided_choice=["maybe", "never"]) in ("maybe", "never")


async def test_a_grammar_that_is_complete_ends_the_answer_even_if_the_end_is_forbidden(
    client: httpx.AsyncClient,
) -> None:
    choice = await answer(client, grammar='root ::= "ab" "c"', ignore_eos=True)
    assert (choice["message"]["content"], choice["finish_reason"]) == ("abc", "stop")


async def test_a_grammar_that_no_token_can_follow_ends_the_answer(client: httpx.AsyncClient) -> None:
    choice = await answer(client, grammar='root ::= "ab" <[999999]> "c"')
    assert (choice["message"]["content"], choice["finish_reason"]) == ("ab", "stop")


async def test_a_stop_text_ends_an_answer_within_its_grammar(client: httpx.AsyncClient) -> None:
    choice = await answer(client, grammar='root ::= "one" "|" "two"', stop="|")
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one", "stop")


@pytest.mark.parametrize(
    ("fields", "param", "place"),
    [
        ({"grammar": 'root ::= "a"\nother ::= [a'}, "grammar", "line 2, column 11"),
        ({"grammar": "root ::= root"}, "grammar", "left recursion"),
        ({"json_schema": {"properties": {"a": {"type": "x"}}}}, "response_format.json_schema", "#/properties/a/type"),
        ({"guided_regex": "a(?=b)"}, "response_format", "column 2"),
        ({"guided_regex": "(a*)*"}, "response_format", "empty"),
        (
            {"response_format": {"type": "json_schema",
                                 "json_schema": {"schema": {"type": "array", "uniqueItems": True}, "strict": True}}},
            "response_format.json_schema", "#/uniqueItems",
        ),
        ({"samplers": ["top_k", "nope"]}, "samplers[1]", "samplers"),
        ({"logit_bias": {"999999": 1}}, "logit_bias", "999999"),
    ],
)  # fmt: skip
async def test_a_bad_request_is_told_its_place(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str, place: str
) -> None:
    error = await refusal(client, **fields)
    assert error["param"] == param
    assert place in error["message"]


async def test_a_loose_schema_with_keywords_beyond_grammars_is_served(client: httpx.AsyncClient) -> None:
    schema = {"type": "array", "uniqueItems": True, "items": {"enum": [1]}, "minItems": 1, "maxItems": 1}
    assert json.loads(await said(client, json_schema=schema)) == [1]


async def test_many_grammars_at_once_do_not_disturb_each_other(client: httpx.AsyncClient) -> None:
    texts = await asyncio.gather(*(said(client, guided_regex=f"[{c}]{{5}}") for c in "abcdefgh"))
    assert texts == [c * 5 for c in "abcdefgh"]
