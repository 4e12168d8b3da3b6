"""What a request can ask, answered by the real 0.5B through a real edge and a real worker."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.fakes.edge import serving_edge
from tests.fakes.local_worker import serving_worker

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.asyncio(loop_scope="module"),
]

CONTEXT = 1024
COUNT = "Count from one to ten in words, separated by commas."
CAPITAL = "What is the capital of France? Answer with one word."
STORY = "Begin a story about a ship."


@asynccontextmanager
async def serving(model: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving_worker(model, threads=2, context=CONTEXT, kv_cells=4 * CONTEXT) as address,
        serving_edge(address) as url,
        httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client,
    ):
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(small_model: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(small_model) as client:
        yield client


async def ask(client: httpx.AsyncClient, text: str, **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 16, "temperature": 0, **fields}
    return await client.post("/v1/chat/completions", json=body)


async def answer(client: httpx.AsyncClient, text: str, **fields: Any) -> dict[str, Any]:
    response = await ask(client, text, **fields)
    assert response.status_code == 200, response.text
    whole: dict[str, Any] = response.json()
    return whole


async def said(client: httpx.AsyncClient, text: str, **fields: Any) -> str:
    return str((await answer(client, text, **fields))["choices"][0]["message"]["content"])


async def test_logprobs_are_those_of_the_tokens_said_and_of_the_likeliest(client: httpx.AsyncClient) -> None:
    [choice] = (await answer(client, STORY, logprobs=True, top_logprobs=5))["choices"]
    entries = choice["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == choice["message"]["content"]
    for entry in entries:
        top = [other["logprob"] for other in entry["top_logprobs"]]
        assert top == sorted(top, reverse=True)
        assert (entry["token"], entry["logprob"]) == (entry["top_logprobs"][0]["token"], top[0])
        assert 0.2 < sum(map(math.exp, top)) <= 1 + 1e-6


async def test_choices_share_one_prefill_and_differ(client: httpx.AsyncClient) -> None:
    fields = {"n": 3, "temperature": 1.5, "seed": 7, "stream": True}
    response = await ask(client, "word " * 300 + STORY, **fields)
    chunks = [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: {")]
    timings = [chunk["timings"] for chunk in chunks if "timings" in chunk]
    assert len(timings) == 3
    assert sum(one["prompt_n"] for one in timings) <= timings[0]["prompt_n"] + timings[0]["cache_n"] + 2
    texts = [
        "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"][0]["index"] == index)
        for index in range(3)
    ]
    assert len(set(texts)) == 3


async def test_a_seed_reproduces(small_model: Path) -> None:
    async with serving(small_model) as client:  # what others left in the cells would change how attention rounds
        await said(client, STORY, max_tokens=1)  # from now on all find as much of the prompt in the cache
        first, second, third, other = [await said(client, STORY, temperature=1.5, seed=seed) for seed in (3, 3, 3, 4)]
    assert first == second == third != other


async def test_a_bias_forbids_a_word_or_forces_one(client: httpx.AsyncClient) -> None:
    assert "Paris" in await said(client, CAPITAL)
    assert "Paris" not in await said(client, CAPITAL, logit_bias=[["Paris", False], [" Paris", False]])
    forced = await said(client, CAPITAL, logit_bias=[[" ship", 100]], max_tokens=4)
    assert forced == " ship" * 4


async def test_an_answer_whose_end_is_ignored_goes_on(client: httpx.AsyncClient) -> None:
    plain = await answer(client, CAPITAL, max_tokens=32)
    endless = await answer(client, CAPITAL, max_tokens=32, ignore_eos=True)
    assert (plain["choices"][0]["finish_reason"], endless["choices"][0]["finish_reason"]) == ("stop", "length")
    assert endless["usage"]["completion_tokens"] == 32 > plain["usage"]["completion_tokens"]


@pytest.mark.parametrize("fields", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1}, {"top_n_sigma": 1e-3}], ids=str)
async def test_what_cuts_all_but_the_likeliest_says_at_any_temperature_what_is_said_at_none(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    open_ = {"top_k": 0, "top_p": 1, "min_p": 0}
    assert await said(client, COUNT, temperature=1.5, **{**open_, **fields}) == await said(client, COUNT)


@pytest.mark.parametrize(
    "fields",
    [
        {"xtc_probability": 1, "xtc_threshold": 0.01},
        {"dry_multiplier": 20, "dry_allowed_length": 1, "dry_sequence_breakers": ["|"]},
        {"repeat_penalty": 3},
        {"frequency_penalty": 2},
        {"presence_penalty": 2},
        {"typical_p": 0.2, "temperature": 1, "seed": 1},
        {"mirostat": 1, "mirostat_tau": 9, "temperature": 1.5, "seed": 1},
        {"mirostat": 2, "mirostat_tau": 9, "temperature": 1.5, "seed": 1},
        {"dynatemp_range": 3, "dynatemp_exponent": 1, "temperature": 3, "top_k": 0, "top_p": 1, "seed": 1},
        {"adaptive_target": 0.05, "temperature": 1.5, "top_k": 0, "top_p": 1, "seed": 1},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_each_sampler_turns_the_answer_from_what_is_likeliest(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    text = "Write the word apple ten times, with nothing else."
    assert await said(client, text, **fields) != await said(client, text)


async def test_samplers_left_out_of_the_order_are_off(client: httpx.AsyncClient) -> None:
    fields = {"samplers": ["temperature", "top_k"], "repeat_penalty": 3, "top_k": 1, "temperature": 1.5}
    assert await said(client, COUNT, **fields) == await said(client, COUNT)


async def test_a_prompt_longer_than_the_context_is_refused_and_says_so(client: httpx.AsyncClient) -> None:
    response = await ask(client, "word " * CONTEXT)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert f"maximum context length is {CONTEXT} tokens" in error["message"]


async def test_an_answer_ends_where_the_context_ends_and_nothing_is_shifted_out(client: httpx.AsyncClient) -> None:
    whole = await answer(client, "word " * (CONTEXT - 60), max_tokens=500, ignore_eos=True)
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["total_tokens"] == CONTEXT


async def test_requests_of_all_kinds_run_side_by_side(client: httpx.AsyncClient) -> None:
    alone = await said(client, COUNT)
    asked = [{}, {"temperature": 1.5, "mirostat": 2}, {"guided_regex": "[a-f]{6}"}, {"logprobs": True}]
    texts = await asyncio.gather(*(said(client, COUNT, **fields) for fields in asked))
    assert texts[0][:12] == alone[:12]
    assert len(texts[2]) == 6
