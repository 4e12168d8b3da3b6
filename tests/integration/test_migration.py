"""Workers with a real engine are killed in the middle of an answer, and another one goes on with it."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.llama import LlamaModel
from services.worker.sampling import Sampler, SamplingOptions
from tests.fakes.processes import Process, running, until
from tests.fakes.scripted_model import Branch, Script, write_scripted_model
from tests.fakes.scripts import hermes_call
from tests.integration.test_router_processes import System

pytestmark = pytest.mark.integration
LONG_TEXT = " ".join(f"Sentence {number} of the long story ends here." for number in range(160))
LONG_FILE = "\n".join(f"value_{number} = {number * number}" for number in range(160))
CALL = hermes_call("write", {"filePath": "values.py", "content": LONG_FILE})
SCRIPT = Script(
    default="Yes?",
    branches=(
        Branch("Tell me the long story", LONG_TEXT),
        Branch("Think for long", f"<think>\n{LONG_TEXT.replace('Sentence', 'Thought')}\n</think>\n\nDone thinking."),
        Branch("Write the values", CALL),
    ),
)
PROPERTIES = {"filePath": {"type": "string"}, "content": {"type": "string"}}
WRITE = pb.Tool(
    name="write",
    parameters_json=json.dumps({"type": "object", "properties": PROPERTIES, "required": list(PROPERTIES)}),
)


class Engines(System):
    """A system whose workers have an engine and the scripted model."""

    async def start_engine(self, model: Path, name: str) -> Process:
        process = await self.stack.enter_async_context(
            running(
                "services.worker",
                LOCALCODE_WORKER_NAME="coder",
                LOCALCODE_WORKER_MODEL_PATH=str(model),
                LOCALCODE_WORKER_LISTEN=f"unix:{self.directory}/{name}.sock",
                LOCALCODE_WORKER_CACHE_ADDRESS=self.cache_address,
                LOCALCODE_WORKER_THREADS="1",
                LOCALCODE_WORKER_CONTEXT="4096",
                LOCALCODE_WORKER_STREAM_INTERVAL_MS="0",  # deltas are counted below
            )
        )
        self.workers[name] = process
        return process

    async def healthy_addresses(self) -> set[str]:
        return {w.worker.address for w in (await self.status()).workers if w.healthy}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scripted_model(tmp_path_factory.mktemp("model") / "long.gguf", SCRIPT)


@pytest.fixture
async def engines(tmp_path: Path, model: Path) -> AsyncIterator[Engines]:
    async with AsyncExitStack() as stack:
        engines = Engines(tmp_path, stack)
        await engines.start()
        for name in ("a", "b"):
            await engines.start_engine(model, name)
        deadline = time.monotonic() + 60
        while len(await engines.healthy_addresses()) < 2:
            assert time.monotonic() < deadline
        yield engines


class Said:
    """What a client has seen of an answer."""

    def __init__(self) -> None:
        self.content = self.reasoning = ""
        self.calls: dict[int, list[str]] = {}
        self.finish: pb.Finish | None = None
        self.admitted_count = self.delta_count = 0

    def add(self, event: pb.GenerateResponse) -> None:
        match event.WhichOneof("event"):
            case "admitted":
                self.admitted_count += 1
                self.worker_id = event.admitted.worker_id
            case "delta":
                self.delta_count += 1
                self.content += event.delta.content
                self.reasoning += event.delta.reasoning
                if event.delta.HasField("tool_call"):
                    part = event.delta.tool_call
                    known = self.calls.setdefault(part.index, ["", "", ""])
                    known[:] = [old + new for old, new in zip(known, (part.id, part.name, part.arguments), strict=True)]
            case "finish":
                self.finish = event.finish


async def ask_and_kill(engines: Engines, text: str, *, after_deltas: int) -> Said:
    """Asks, kills the worker that answers behind some deltas, and reads to the end."""
    message = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text=text)])
    prompt = pb.ChatPrompt(messages=[message], tools=[WRITE] if "values" in text else [])
    request = pb.GenerateRequest(request_id="r1", model="coder", chat=prompt)
    request.sampling.temperature = 0
    said = Said()
    async for event in engines.inference.Generate(request, timeout=60):
        said.add(event)
        if said.delta_count == after_deltas:
            after_deltas = -1
            await (await answering(engines)).kill()
    if after_deltas == -1:
        assert (await engines.status()).migration_count == 1
    return said


async def answering(engines: Engines) -> Process:
    busy = [worker.worker for worker in (await engines.status()).workers if worker.open_request_count]
    assert len(busy) == 1
    return engines.workers[Path(busy[0].address).stem]


@pytest.mark.parametrize("after_deltas", [1, 30])
async def test_text_goes_on_where_it_broke_off(engines: Engines, after_deltas: int) -> None:
    said = await ask_and_kill(engines, "Tell me the long story", after_deltas=after_deltas)
    assert said.content == LONG_TEXT
    assert said.finish is not None
    assert (said.finish.reason, said.admitted_count) == (pb.FINISH_REASON_STOP, 1)


async def test_reasoning_goes_on_where_it_broke_off(engines: Engines) -> None:
    said = await ask_and_kill(engines, "Think for long", after_deltas=20)
    assert said.reasoning == LONG_TEXT.replace("Sentence", "Thought")
    assert said.content == "Done thinking."
    assert said.finish is not None
    assert said.finish.usage.reasoning_token_count > 160


async def test_a_tool_call_goes_on_where_it_broke_off(engines: Engines) -> None:
    said = await ask_and_kill(engines, "Write the values", after_deltas=20)
    assert said.content == ""
    ((call_id, name, arguments),) = said.calls.values()
    assert (call_id.count("call_"), name) == (1, "write")
    assert json.loads(arguments) == {"filePath": "values.py", "content": LONG_FILE}
    assert said.finish is not None
    assert said.finish.reason == pb.FINISH_REASON_TOOL_CALLS


async def test_tokens_count_once(engines: Engines, model: Path) -> None:
    cut = await ask_and_kill(engines, "Tell me the long story", after_deltas=40)
    whole = await ask_and_kill(engines, "Tell me the long story", after_deltas=10_000)
    assert cut.finish is not None
    assert whole.finish is not None
    for field in ("prompt_token_count", "completion_token_count"):
        assert getattr(cut.finish.usage, field) == getattr(whole.finish.usage, field)


async def test_a_restarted_worker_goes_on_with_the_answer_of_its_predecessor(engines: Engines, model: Path) -> None:
    await engines.workers["b"].kill()
    message = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text="Tell me the long story")])
    request = pb.GenerateRequest(request_id="r1", model="coder", chat=pb.ChatPrompt(messages=[message]))
    said = Said()
    async for event in engines.inference.Generate(request, timeout=120):
        said.add(event)
        if said.delta_count == 20 and engines.workers["a"].is_running:
            await engines.workers["a"].kill()
            await engines.start_engine(model, "b")
    assert said.content == LONG_TEXT
    await until(lambda: engines.workers["b"].is_running)


def test_draws_with_a_seed_do_not_depend_on_where_they_began(model: Path) -> None:
    loaded = LlamaModel(model, gpu_layers=0, mmap=True, mlock=False)
    options = SamplingOptions(temperature=1.0, seed=11, repeat_penalty=1.1)
    logits = [row.astype(np.float32) for row in np.random.default_rng(5).normal(size=(24, loaded.vocab_size))]
    first = Sampler(loaded, options)
    whole = [first.sample(row) for row in logits]
    for position in (1, 13, 23):
        other = Sampler(loaded, options)
        for token in whole[:position]:
            other.accept(token)
        assert [other.sample(row) for row in logits[position:]] == whole[position:]
        other.close()
    first.close()
    assert len(set(whole)) > 12
