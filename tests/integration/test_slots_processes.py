"""Slots and explanations through all processes: edge, router, worker, cache service and the command line."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from tests.fakes.edge import serving_edge
from tests.fakes.processes import running, until_serving
from tests.integration.test_block_store_processes import cache, command

pytestmark = pytest.mark.integration


async def until_listed(client: httpx.AsyncClient, model: str) -> None:
    """Waits until the router has found the worker of a model."""
    async with asyncio.timeout(20):
        while model not in [one["id"] for one in (await client.get("/v1/models")).json()["data"]]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_slot_is_saved_through_the_router_and_the_request_is_explained(
    scripted_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    worker, router = f"unix:{tmp_path}/w.sock", f"unix:{tmp_path}/r.sock"
    async with cache(tmp_path) as (_process, address):
        served_by_worker = running(
            "services.worker", LOCALCODE_WORKER_NAME="local", LOCALCODE_WORKER_MODEL_PATH=str(scripted_chat_model),
            LOCALCODE_WORKER_CACHE_ADDRESS=address, LOCALCODE_WORKER_LISTEN=worker, LOCALCODE_WORKER_CONTEXT="4096",
            LOCALCODE_WORKER_STATE_DIRECTORY=str(tmp_path / "state"), LOCALCODE_WORKER_THREADS="1",
            LOCALCODE_WORKER_RAM_BYTES="50000000", LOCALCODE_WORKER_DIGESTS_PATH=str(tmp_path / "digests.json"),
        )  # fmt: skip
        served_by_router = running(
            "services.router", LOCALCODE_ROUTER_LISTEN=router, LOCALCODE_ROUTER_CACHE_ADDRESS=address
        )
        async with served_by_worker, served_by_router:
            await until_serving(worker)
            await until_serving(router)
            async with serving_edge(router) as url, httpx.AsyncClient(base_url=url, timeout=120) as client:
                await until_listed(client, "local")
                body = {"model": "local", "messages": [{"role": "user", "content": "Hi " * 400}]}
                answer = await client.post("/v1/chat/completions", json=body)
                assert answer.json()["timings"]["cache"]["miss"]["reason"] == "unknown"
                slots = (await client.get("/slots", params={"model": "local"})).json()
                (slot,) = [one for one in slots if one["request_id"] == answer.headers["x-request-id"]]
                name = {"filename": "mine"}
                path = f"/slots/{slot['id']}"
                saved = await client.post(path, params={"action": "save", "model": "local"}, json=name)
                assert saved.json().get("n_saved") == slot["n_tokens"], saved.text
                unknown = await client.get("/slots", params={"model": "none"})
                assert unknown.status_code == 404
            explained = await command("explain", "--json", "--address", address)
            (told,) = json.loads(explained.output)
            assert (told["request_id"], told["cache"]["miss"]) == (slot["request_id"], "CACHE_MISS_UNKNOWN")
            assert "no prompt that begins so" in (await command("explain", "--address", address)).output
