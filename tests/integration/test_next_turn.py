"""The next turn of a conversation prefills only what is new, whatever form the model's answer had."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.engine import Engine, EngineLimits
from services.worker.explain import Explainer, ModelText
from services.worker.loading import load
from services.worker.prompts import Preparer
from services.worker.replay import Transcript
from services.worker.servicer import InferenceServicer, Mailbox
from services.worker.settings import WorkerSettings
from services.worker.speculation import NO_SPECULATION
from tests.fakes.scripted_model import Branch, Script, write_scripted_model
from tests.fakes.scripts import STORY, WEATHER_ANSWER, WEATHER_CALL

pytestmark = pytest.mark.integration

FENCED_CALL = 'I will look.\n```json\n{"name": "get_weather",\n  "arguments": {"city": "Porto"}}\n```'
SCRIPT = Script(
    default="Hello!",
    branches=(
        Branch("Tell me a story", STORY),
        Branch("How is the weather", WEATHER_CALL),
        Branch("Is it cold", FENCED_CALL),
        Branch("24 degrees", WEATHER_ANSWER),
    ),
)
TOOL = pb.Tool(name="get_weather", parameters_json='{"type":"object","properties":{"city":{"type":"string"}}}')
FRAME_TOKENS = 4
"""What stands around a message: its end, and at most what the model computed last."""


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[InferenceServicer]:
    settings = WorkerSettings(
        name="m", model_path=write_scripted_model(tmp_path / "m.gguf", SCRIPT), context=4096, threads=1, temperature=0
    )
    loaded = await asyncio.to_thread(load, settings)
    limits = EngineLimits(slots=4, queue_size=8, batch_tokens=512, step_budget_seconds=0.25)
    mailbox = Mailbox(asyncio.get_running_loop())
    engine = Engine(loaded.model, loaded.context, loaded.pool, loaded.lock, limits, mailbox.post)
    engine.start()
    preparer = Preparer(loaded.model, loaded.model.chat_template or "", settings, context_length=4096)
    yield InferenceServicer(
        engine,
        loaded.model,
        preparer,
        pb.ModelDescription(name="m"),
        explainer=Explainer(ModelText("m", "template", loaded.model.piece), "w"),
        speculation=NO_SPECULATION,
        has_draft_model=False,
    )
    engine.stop()
    loaded.context.close()
    loaded.model.close()


async def answer(worker: InferenceServicer, messages: Sequence[pb.Message]) -> tuple[pb.Message, pb.Finish]:
    request = pb.GenerateRequest(request_id="r", model="m", chat=pb.ChatPrompt(messages=messages, tools=[TOOL]))
    transcript = Transcript()
    async for event in worker.Generate(request, None):
        transcript.add(event.delta)
        if event.HasField("finish"):
            return transcript.message(), event.finish
    raise AssertionError("no finish")


def said(role: pb.Role.ValueType, text: str) -> pb.Message:
    return pb.Message(role=role, content=[pb.ContentPart(text=text)])


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        ("Tell me a story", said(pb.ROLE_USER, "And now the weather: 24 degrees")),
        ("How is the weather", said(pb.ROLE_TOOL, "24 degrees")),
        ("Is it cold", said(pb.ROLE_TOOL, "24 degrees")),
    ],
    ids=["text", "native call", "fenced call"],
)
async def test_all_of_a_turn_is_cached_for_the_next_one(
    worker: InferenceServicer, question: str, reply: pb.Message
) -> None:
    asked = [said(pb.ROLE_USER, question)]
    answered, first = await answer(worker, asked)
    for call in answered.tool_calls:
        call.arguments_json = call.arguments_json.replace(": ", " :  ")
    assert bool(answered.tool_calls) == (reply.role == pb.ROLE_TOOL)
    _, second = await answer(worker, [*asked, answered, reply])
    known_count = first.usage.prompt_token_count + first.usage.completion_token_count
    assert second.usage.cached_token_count >= known_count - FRAME_TOKENS
