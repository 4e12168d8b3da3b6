"""A scripted model says the same with and without guesses, tool calls included."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.llama import LoadFailed
from services.worker.speculation import SpeculationOptions
from tests.fakes.scripted_model import Branch, Script, write_scripted_model
from tests.fakes.scripts import CHAT_SCRIPT, STORY, WEATHER_CALL
from tests.fakes.speculation import every_guess_looks_worth_making
from tests.fakes.worker_engine import Running, chat, running_worker

pytestmark = pytest.mark.integration

WEATHER = pb.Tool(
    name="get_weather",
    parameters_json='{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}',
)
KINDS = [SpeculationOptions("lookup", 8), SpeculationOptions("draft", 4), SpeculationOptions("auto", 8)]


@pytest.fixture(autouse=True, scope="module")
def _every_guess_looks_worth_making() -> Iterator[None]:
    with every_guess_looks_worth_making():
        yield


@pytest.fixture(scope="module")
def worker(scripted_chat_model: Path) -> Iterator[Running]:
    with running_worker(scripted_chat_model, context=4096, draft_path=scripted_chat_model) as running:
        yield running


@pytest.mark.parametrize("options", KINDS, ids=lambda options: options.kind)
@pytest.mark.parametrize(
    "prompt", [f"Tell me a story like this one: {STORY}", f"How is the weather? Say {WEATHER_CALL}", "Never stop"]
)
def test_the_answer_is_the_same_with_guesses(worker: Running, options: SpeculationOptions, prompt: str) -> None:
    request = chat(prompt, tools=(WEATHER,), max_tokens=120)
    plain, guessed = worker.say(request), worker.say(request, options)
    assert guessed.tokens == plain.tokens
    assert (guessed.text, guessed.calls) == (plain.text, plain.calls)
    assert guessed.finish.reason == plain.finish.reason
    assert guessed.finish.usage.accepted_draft_token_count > 0
    assert plain.finish.usage.accepted_draft_token_count == plain.finish.usage.rejected_draft_token_count == 0


def test_streams_with_and_without_guesses_run_side_by_side(worker: Running) -> None:
    prompts = [f"Tell me a story like this one: {STORY} {n}" for n in range(4)]
    alone = [worker.say(chat(prompt)).text for prompt in prompts]
    together = [
        worker.submit(chat(prompt), options)
        for prompt, options in zip(prompts, [*KINDS, SpeculationOptions()], strict=True)
    ]
    assert [worker.wait(generation).text for generation in together] == alone == [STORY] * 4


def test_a_draft_model_of_another_vocabulary_is_refused(scripted_chat_model: Path, tmp_path: Path) -> None:
    other = write_scripted_model(tmp_path / "other.gguf", Script("Other words.", CHAT_SCRIPT.branches[:1]))
    with (
        pytest.raises(LoadFailed, match="can't draft for test: "),
        running_worker(scripted_chat_model, context=1024, draft_path=other),
    ):
        pass


def test_a_draft_model_that_is_wrong_changes_nothing(scripted_chat_model: Path, tmp_path: Path) -> None:
    branches = tuple(Branch(branch.trigger, branch.answer, is_endless=True) for branch in CHAT_SCRIPT.branches)
    endless = write_scripted_model(tmp_path / "endless.gguf", Script(CHAT_SCRIPT.default, branches))
    with running_worker(endless, context=2048, draft_path=scripted_chat_model) as reverse:
        plain = reverse.say(chat("Tell me a story", max_tokens=100))
        guessed = reverse.say(chat("Tell me a story", max_tokens=100), SpeculationOptions("draft", 4))
    assert guessed.tokens == plain.tokens
    assert guessed.finish.usage.rejected_draft_token_count > 0
