"""What an answer over HTTP says of the caches, and slots, with a scripted model and a block store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.shared.block_client import open_block_client
from services.shared.grpc_runtime import HealthService, running_server
from services.worker.__main__ import _explainer, _limits, _services
from services.worker.engine import Engine
from services.worker.loading import load
from services.worker.saved_slots import SavedSlots
from services.worker.servicer import Mailbox
from services.worker.settings import WorkerSettings
from services.worker.stored_tier import StoredTier
from tests.fakes.block_store import KEYS, make_store, served
from tests.fakes.edge import serving_edge

pytestmark = pytest.mark.integration
RULES = " ".join(f"Rule {number} says {number * 7919}." for number in range(60))


@asynccontextmanager
async def system(model_path: Path, directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    """An edge before a worker before a block store, over HTTP and gRPC."""
    settings = WorkerSettings(
        name="local", model_path=model_path, threads=1, context=4096, kv_cells=8192, ram_bytes=50_000_000,
        parked_cells=8192, digests_path=directory / "digests.json",
    )  # fmt: skip
    cache_address = f"unix:{directory}/c.sock"
    loaded = await asyncio.to_thread(load, settings)
    assert loaded.ram is not None
    post = Mailbox(asyncio.get_running_loop()).post
    engine = Engine(loaded.model, loaded.context, loaded.pool, loaded.lock, _limits(settings), post)
    await asyncio.to_thread(engine.start)
    explainer, health = _explainer(settings, loaded, "worker-1", shows_content=True), HealthService()
    async with (
        served(make_store(directory / "kv", max_bytes=10**9, max_block_bytes=10**8), cache_address),
        open_block_client(cache_address, fingerprint=loaded.fingerprint, keyring=KEYS) as archive,
    ):
        stored = StoredTier(loaded.ram, archive, fingerprint=loaded.fingerprint)
        saved = SavedSlots(engine, loaded.pool, loaded.ram, archive, fingerprint=loaded.fingerprint)
        register = _services(settings, loaded, engine, explainer, stored, saved)
        try:
            async with (
                running_server("127.0.0.1:0", register, health_service=health, stop_grace_seconds=0.1) as address,
                serving_edge(address) as url,
                httpx.AsyncClient(base_url=url, timeout=120) as client,
            ):
                await health.set_serving(True)
                yield client
        finally:
            await stored.close()
            engine.stop()


async def ask(client: httpx.AsyncClient, directory: str, **fields: Any) -> httpx.Response:
    content = f"You are an agent.\nDirectory: {directory}\n{RULES}"
    messages = [{"role": "system", "content": content}, {"role": "user", "content": "Hi"}]
    answer = await client.post("/v1/chat/completions", json={"messages": messages, "temperature": 0, **fields})
    assert answer.status_code == 200
    return answer


async def test_answers_say_why_state_was_missing_and_slots_are_saved(scripted_chat_model: Path, tmp_path: Path) -> None:
    async with system(scripted_chat_model, tmp_path) as client:
        first = await ask(client, "/srv/a")
        assert first.json()["timings"]["cache"]["miss"]["reason"] == "unknown"
        again = (await ask(client, "/srv/a")).json()["timings"]["cache"]
        assert again["miss"] is None
        assert again["parked"] > 0
        miss = (await ask(client, "/srv/b")).json()["timings"]["cache"]["miss"]
        assert (miss["reason"], miss["place"]["message"], miss["place"]["part"]) == ("differs", 0, "system")
        assert (miss["place"]["excerpt"], miss["place"]["known_excerpt"]) == (
            "Directory: /srv/b",
            "Directory: /srv/a",
        )
        assert miss["repeated_tokens"] > 128
        streamed = await ask(client, "/srv/c", stream=True)
        assert "user message" in streamed.text

        slots = (await client.get("/slots")).json()
        slot = next(one for one in slots if one["request_id"] == streamed.headers["x-request-id"])
        assert not slot["is_processing"]
        path = f"/slots/{slot['id']}"
        name = {"filename": "mine.bin"}
        saved = (await client.post(path, params={"action": "save"}, json=name)).json()
        assert (saved["id_slot"], saved["filename"], saved["n_saved"]) == (slot["id"], "mine.bin", slot["n_tokens"])
        assert saved["n_written"] > 0
        erased = (await client.post(path, params={"action": "erase"})).json()
        assert erased == {"id_slot": slot["id"], "n_erased": slot["n_tokens"]}
        restored = (await client.post(path, params={"action": "restore"}, json=name)).json()
        assert restored["n_restored"] == saved["n_saved"]
        assert restored["timings"]["restore_ms"] >= 0
        back = (await ask(client, "/srv/c")).json()
        assert back["timings"]["cache"]["ram"] > 256
        assert back["usage"]["prompt_tokens_details"]["cached_tokens"] > 256

        for bad in ("../x", "/etc/passwd", "", "a b"):
            refused = await client.post(path, params={"action": "save"}, json={"filename": bad})
            assert refused.status_code == 400
            assert "plain name" in refused.json()["error"]["message"]
        unknown = await client.post(path, params={"action": "restore"}, json={"filename": "none"})
        assert unknown.status_code == 404
        assert (await client.post("/slots/x", params={"action": "erase"})).status_code == 400
        assert (await client.post("/slots/9999", params={"action": "erase"})).status_code == 400
        assert (await client.post(path, params={"action": "copy"})).status_code == 400
