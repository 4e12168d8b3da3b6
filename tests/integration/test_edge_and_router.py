"""HTTP through an edge and a real router to fake workers: where requests go, what they cost, and workers that leave."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.edge import serving_edge
from tests.integration.test_router_processes import System

pytestmark = pytest.mark.integration
CHAT = "/v1/chat/completions"


class Site:
    """A router with workers, and a client of the edge in front of it."""

    def __init__(self, system: System, client: httpx.AsyncClient) -> None:
        self.system, self.client = system, client

    async def post(self, path: str, text: str = "who?", **fields: Any) -> httpx.Response:
        return await self.client.post(path, json={"messages": [{"role": "user", "content": text}], **fields})

    async def streamed(self, text: str, **fields: Any) -> str:
        response = await self.post(CHAT, text, stream=True, **fields)
        lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]", response.text
        chunks = [json.loads(line) for line in lines[:-1]]
        return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        system = System(tmp_path, stack)
        await system.start()
        url = await stack.enter_async_context(serving_edge(system.router_address))
        client = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False)
        yield Site(system, await stack.enter_async_context(client))


async def start_workers(site: Site, *names: str) -> None:
    for name in names:
        await site.system.start_worker(name)
    await site.system.until_healthy(*names)


async def test_a_dry_run_tells_model_class_and_reasons_and_asks_no_worker(site: Site) -> None:
    await start_workers(site, "a")
    answer = await site.post("/v1/route", model="auto")
    assert answer.status_code == 200
    assert answer.json() == {
        "model": "coder",
        "class": "chat",
        "reasons": ["chat: no tools", "default"],
        "considered": [
            {
                "model": "coder",
                "reason": "default",
                "obstacle": None,
                "first_token_seconds": answer.json()["considered"][0]["first_token_seconds"],
            }
        ],
    }
    assert [event["event"] for event in site.system.workers["a"].events] == ["ready"]


async def test_the_answer_itself_carries_the_decision_of_the_dry_run(site: Site) -> None:
    await start_workers(site, "a")
    dry = (await site.post("/v1/route", model="default")).json()
    answer = await site.post(CHAT, model="default")
    assert answer.headers["x-localcode-model"] == dry["model"] == "coder"
    assert answer.headers["x-localcode-route"] == "; ".join(dry["reasons"]) == "chat: no tools; alias default"


async def test_an_obstacle_is_named(site: Site) -> None:
    await start_workers(site, "a")
    answer = (await site.post("/v1/route", model="absent")).json()
    assert answer["considered"][0]["obstacle"] == "absent does not run"


@pytest.mark.parametrize("path", ["/v1/route", "/v1/estimate"])
async def test_what_is_wrong_with_a_request_is_said_without_sending_it(site: Site, path: str) -> None:
    assert (await site.post(path, model="gpt-5")).status_code == 404
    bad = await site.client.post(path, json={"messages": [{"role": "wizard", "content": "x"}]})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "messages[0].role")


async def test_an_estimate_tells_the_worker_and_what_is_to_be_computed(site: Site) -> None:
    await start_workers(site, "a")
    prompt = "word " * 2000
    cold = (await site.post("/v1/estimate", prompt, model="coder")).json()
    assert (cold["model"], cold["worker_id"], cold["cached_tokens"]) == ("coder", "a", {"worker": 0})
    assert cold["tokens_to_prefill"] == cold["prompt_tokens"] > 2000
    assert cold["first_token_seconds"] == pytest.approx(cold["queue_seconds"] + cold["prefill_seconds"], abs=0.002)
    await site.post(CHAT, prompt, model="coder")
    warm = (await site.post("/v1/estimate", prompt, model="coder")).json()
    assert warm["cached_tokens"]["worker"] == warm["prompt_tokens"] > 0 == warm["tokens_to_prefill"]
    assert warm["prefill_seconds"] < cold["prefill_seconds"]


async def test_an_estimate_without_a_worker_is_to_be_tried_again(site: Site) -> None:
    answer = await site.post("/v1/estimate", model="coder")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
    assert int(answer.headers["retry-after"]) >= 1


async def test_streams_of_a_worker_that_is_told_to_stop_go_on_elsewhere_and_new_requests_too(site: Site) -> None:
    await start_workers(site, "a", "b")
    expected = "".join(f"{number} " for number in range(60))
    streams = [asyncio.create_task(site.streamed("tell 60 0.05", model="coder")) for _ in range(4)]
    await asyncio.sleep(1.0)
    site.system.workers["a"].signal(signal.SIGTERM)
    assert await site.system.workers["a"].wait() == 0
    assert [await site.streamed("who?", model="coder") for _ in range(3)] == ["b"] * 3
    assert await asyncio.gather(*streams) == [expected] * 4
    health = (await site.client.get("/health")).json()
    assert [worker["worker_id"] for worker in health["services"]["workers"]] == ["b"]


async def test_where_nobody_loads_models_they_are_fixed(site: Site) -> None:
    await start_workers(site, "a")
    for verb in ("load", "unload"):
        answer = await site.client.post(f"/v1/models/coder/{verb}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (501, "models_fixed")
    assert (await site.client.post("/v1/models/gpt-5/load")).status_code == 404
    entries = {entry["id"]: entry for entry in (await site.client.get("/v1/models")).json()["data"]}
    assert {name: entry["state"] for name, entry in entries.items()} == {
        "coder": "loaded", "default": "loaded", "absent": "unloaded"
    }  # fmt: skip
