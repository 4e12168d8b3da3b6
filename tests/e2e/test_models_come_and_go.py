"""Several models, memory for one of them: each is loaded when a request asks for it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from cli.config import ModelEntry
from cli.memory import model_bytes
from tests.e2e.conftest import StartSystem
from tests.e2e.system import System, llama_model, wait_until
from tests.fakes.scripts import GREETING, STORY

pytestmark = pytest.mark.e2e
CONTEXT, RAM_BYTES = 8192, 50_000_000
LONG = "word " * 600


@pytest.fixture
def system(start_system: StartSystem, scripted_chat_model: Path) -> System:
    table: dict[str, Any] = {"context": CONTEXT, "ram_bytes": RAM_BYTES, "slots": 2, "stream_interval_ms": 0}
    size = model_bytes(ModelEntry("any", "llama", {"source": str(scripted_chat_model), **table}), None)
    up = f"[up]\nmemory_budget = {size * 3 // 2}\n[edge]\nkeep_alive_seconds = 0.3\nfirst_headers_seconds = 0.5\n"
    table["speculation"] = '"none"'  # an endless answer is to last a while
    models = [llama_model(name, scripted_chat_model, **table) for name in ("first", "second")]
    system = start_system("\n".join([up, '[router]\ndefault_model = "first"', *models]))
    wait_until(lambda: states(system) == {"first": "loaded", "second": "unloaded"}, 30, system.tail)
    return system


def states(system: System) -> dict[str, str]:
    entries = httpx.get(f"{system.url}/v1/models", trust_env=False).json()["data"]
    return {entry["id"]: entry["state"] for entry in entries}


def post(system: System, path: str) -> httpx.Response:
    return httpx.post(f"{system.url}/v1/models/{path}", trust_env=False, timeout=20)


def ask(system: System, model: str, *messages: str) -> Any:
    roles = ("user", "assistant") * len(messages)
    body = [{"role": role, "content": text} for role, text in zip(roles, messages, strict=False)]
    with system.client() as client:
        return client.chat.completions.create(model=model, messages=body)  # type: ignore[call-overload]


def stream_lines(system: System, model: str, text: str) -> Iterator[str]:
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": text}]}
    with httpx.stream("POST", f"{system.url}/v1/chat/completions", json=body, trust_env=False, timeout=60) as response:
        assert response.status_code == 200
        yield from response.iter_lines()


def test_a_model_that_is_asked_for_takes_the_place_of_the_other_and_what_that_knew_is_kept(system: System) -> None:
    cold = ask(system, "first", LONG)
    assert cold.choices[0].message.content == GREETING
    lines = list(stream_lines(system, "second", "Tell me a story"))
    comments = [line for line in lines if line.startswith(":")]
    assert any("load" in comment and "model second" in comment for comment in comments), comments  # loads in 0.1 s
    assert lines[-2] == "data: [DONE]"
    wait_until(lambda: states(system) == {"first": "unloaded", "second": "loaded"}, 10, system.tail)
    warm = ask(system, "first", LONG, GREETING, "Tell me a story")
    assert warm.choices[0].message.content == STORY
    assert warm.usage.prompt_tokens_details.cached_tokens > 500


def test_a_model_that_streams_is_not_unloaded_for_another(system: System) -> None:
    with system.client() as client:
        stream = client.chat.completions.create(
            model="first", messages=[{"role": "user", "content": "Never stop"}], stream=True
        )
        next(stream)
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(lambda: list(stream_lines(system, "second", "Tell me a story")))
            until = time.monotonic() + 3  # longer than routers need to hear of it, shorter than the context lasts
            while time.monotonic() < until:
                next(stream)
                assert not waiting.done()
            assert states(system)["first"] == "loaded"
            stream.close()
            lines = waiting.result(60)
    assert ": waiting for memory to load model second into" in lines
    assert lines[-2] == "data: [DONE]"


def test_models_are_loaded_and_unloaded_by_hand(system: System) -> None:
    assert post(system, "nobody/load").status_code == 404
    unloading = post(system, "first/unload")
    assert (unloading.status_code, unloading.json()["state"]) == (202, "unloading")
    wait_until(lambda: states(system)["first"] == "unloaded", 30, system.tail)
    assert system.health()["status"] == "ok"
    assert [p for p in system.processes() if "services.worker" in p.cmdline()] == []
    loading = post(system, "second/load")
    assert loading.status_code == 202
    wait_until(lambda: states(system)["second"] == "loaded", 30, system.tail)
    assert post(system, "second/load").status_code == 200
    with pytest.raises(openai.NotFoundError):
        ask(system, "third", "Hi")
