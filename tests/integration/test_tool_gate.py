"""A worker whose model is asked whether a message needs a tool: what it says is what becomes of the answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.__main__ import _servicer
from services.worker.engine import Engine, EngineLimits
from services.worker.explain import Explainer, ModelText
from services.worker.loading import load
from services.worker.servicer import Mailbox
from services.worker.settings import WorkerSettings
from tests.fakes.edge import serving_edge
from tests.fakes.local_worker import serving_worker
from tests.fakes.scripted_model import Branch, Script, write_scripted_model
from tests.fakes.scripts import WEATHER_CALL

pytestmark = pytest.mark.integration

GATE = "general knowledge alone"  # stands in the gate's question, and nowhere else
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}


@asynccontextmanager
async def serving(folder: Path, script: Script, *, tool_gate: bool) -> AsyncIterator[httpx.AsyncClient]:
    path = await asyncio.to_thread(write_scripted_model, folder / f"{tool_gate}.gguf", script)
    async with (
        serving_worker(path, temperature=0, tool_gate=tool_gate, prompt_layout="tools_first_restated") as address,
        serving_edge(address) as url,
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client,
    ):
        yield client


async def answer(client: httpx.AsyncClient, *history: dict[str, str]) -> dict[str, object]:
    messages = [*history, {"role": "user", "content": "Hi"}]
    response = await client.post(
        "/v1/chat/completions", json={"messages": messages, "tools": [TOOL], "max_tokens": 256}
    )
    assert response.status_code == 200, response.text
    message: dict[str, object] = response.json()["choices"][0]["message"]
    return message


@pytest.mark.parametrize("tool_gate", [False, True])
async def test_an_answer_that_was_no_call_is_one_if_the_gate_says_so(tmp_path: Path, tool_gate: bool) -> None:
    script = Script(default="Hello!", branches=(Branch(GATE, "tools"),))
    async with serving(tmp_path, script, tool_gate=tool_gate) as client:
        assert bool((await answer(client)).get("tool_calls")) == tool_gate


@pytest.mark.parametrize("tool_gate", [False, True])
async def test_an_answer_that_was_a_call_is_none_if_the_gate_says_so(tmp_path: Path, tool_gate: bool) -> None:
    script = Script(default=WEATHER_CALL, branches=(Branch(GATE, "knowledge"),))
    async with serving(tmp_path, script, tool_gate=tool_gate) as client:
        message = await answer(client)
    assert bool(message.get("tool_calls")) != tool_gate
    assert not str(message.get("content") or "").startswith("<tool_call>")


async def test_a_later_message_is_asked_about_with_what_was_said_before(tmp_path: Path) -> None:
    script = Script(default="Hello!", branches=(Branch("The assistant said before: Shall I look?", "tools"),))
    history = ({"role": "user", "content": "Good day"}, {"role": "assistant", "content": "Shall I look?"})
    async with serving(tmp_path, script, tool_gate=True) as client:
        assert not (await answer(client)).get("tool_calls")
        assert (await answer(client, *history)).get("tool_calls")


async def test_of_the_gates_questions_only_the_examples_stay_parked(tmp_path: Path) -> None:
    path = await asyncio.to_thread(write_scripted_model, tmp_path / "m.gguf", Script(default="Hello!"))
    settings = WorkerSettings(
        name="m", model_path=path, context=4096, kv_cells=16384, parked_cells=16384, threads=1, tool_gate=True
    )
    loaded = await asyncio.to_thread(load, settings)
    limits = EngineLimits(slots=4, queue_size=8, batch_tokens=512, step_budget_seconds=0.25)
    engine = Engine(
        loaded.model, loaded.context, loaded.pool, loaded.lock, limits, Mailbox(asyncio.get_running_loop()).post
    )
    await asyncio.to_thread(engine.start)
    explainer = Explainer(ModelText("m", "template", loaded.model.piece), "w")
    worker = _servicer(settings, loaded, engine, explainer)
    try:
        for text in ("One.", "Two, please.", "And three of them."):
            chat = pb.ChatPrompt(tools=[pb.Tool(name="get_weather", parameters_json="{}")])
            chat.messages.add(role=pb.ROLE_USER).content.add(text=text)
            async for _ in worker.Generate(pb.GenerateRequest(request_id="r", model="m", chat=chat), None):
                pass
        parked = await asyncio.wrap_future(engine.call(lambda: loaded.pool.parked_count))
    finally:
        engine.stop()
        loaded.context.close()
        loaded.model.close()
    assert parked == 1 + 3
