"""Recurrent and hybrid models, whose state can't be cut, go on from states saved at the ends of prompts and answers."""

from pathlib import Path

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.prompts import Prepared, Preparer
from services.worker.scheduler import shared_length
from services.worker.settings import WorkerSettings
from tests.fakes.engine import loaded_engine
from tests.fakes.tiny_models import write_hybrid_model, write_recurrent_model

pytestmark = pytest.mark.integration

PROMPT = [3 + (7 * i + i // 11) % 250 for i in range(300)]


@pytest.fixture(params=[write_recurrent_model, write_hybrid_model], ids=["recurrent", "hybrid"])
def recurrent_model(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path: Path = request.param(tmp_path / "model.gguf")
    return path


def test_the_next_turn_goes_on_from_the_end_of_the_answer(recurrent_model: Path) -> None:
    with loaded_engine(recurrent_model, context=1024, kv_cells=1024, slots=2) as running:
        first = running.ask(PROMPT, max_tokens=10)
        first.wait()
        turn = [*first.generation.tokens, 30, 31, 32]
        second = running.ask(turn, max_tokens=10)
        usage = second.wait().usage
    with loaded_engine(recurrent_model, context=1024, kv_cells=1024, slots=2, ram_bytes=0) as fresh:
        alone = fresh.ask(turn, max_tokens=10)
        assert alone.wait().usage.cached_token_count == 0
    assert usage.cached_from.ram_token_count == 309  # the last token of an answer is never computed
    assert second.generation.tokens == alone.generation.tokens


def test_another_question_goes_on_from_the_end_of_the_prompt(recurrent_model: Path) -> None:
    with loaded_engine(recurrent_model, context=1024, kv_cells=1024, slots=2) as running:
        running.ask(PROMPT, max_tokens=10, checkpoints=(300,)).wait()
        usage = running.ask([*PROMPT, 250, 251], max_tokens=3).wait().usage
    assert usage.cached_token_count == 300


def test_what_shares_only_the_middle_of_a_prompt_is_computed_anew(recurrent_model: Path) -> None:
    with loaded_engine(recurrent_model, context=1024, kv_cells=1024, slots=2) as running:
        running.ask(PROMPT, max_tokens=10).wait()
        assert running.ask([*PROMPT[:200], 250, 251], max_tokens=3).wait().usage.cached_token_count == 0


def test_states_are_kept_where_other_prompts_will_leave_this_one(recurrent_model: Path) -> None:
    with loaded_engine(recurrent_model, context=1024, kv_cells=1024, slots=2) as running:
        model = running.loaded.model
        preparer = Preparer(model, model.chat_template or "", WorkerSettings(name="m"), context_length=1024)
        system = pb.Message(role=pb.ROLE_SYSTEM, content=[pb.ContentPart(text="You edit files. " * 9)])
        first, other = (_chat(preparer, system, question) for question in ("Write a test.", "Read the file."))
        running.ask(first.tokens, max_tokens=4, checkpoints=first.checkpoints).wait()
        shared = shared_length(first.tokens, other.tokens)
        asked = running.ask(other.tokens, max_tokens=4, checkpoints=other.checkpoints)
        usage = asked.wait().usage
    with loaded_engine(recurrent_model, context=1024, kv_cells=1024, slots=2, ram_bytes=0) as fresh:
        alone = fresh.ask(other.tokens, max_tokens=4)
        alone.wait()
    assert usage.cached_token_count == shared - 1
    assert asked.generation.tokens == alone.generation.tokens


def test_the_same_prompt_again_goes_on_before_its_last_token(recurrent_model: Path) -> None:
    with loaded_engine(recurrent_model, context=1024, kv_cells=1024, slots=2) as running:
        model = running.loaded.model
        preparer = Preparer(model, model.chat_template or "", WorkerSettings(name="m"), context_length=1024)
        prompt = _chat(preparer, pb.Message(role=pb.ROLE_SYSTEM), "Which files are there? " * 20)
        first = running.ask(prompt.tokens, max_tokens=4, checkpoints=prompt.checkpoints)
        first.wait()
        again = running.ask(prompt.tokens, max_tokens=4)
        usage = again.wait().usage
    assert usage.cached_token_count == len(prompt.tokens) - 1
    assert again.generation.tokens == first.generation.tokens


def test_a_prompt_of_one_token_has_no_state_worth_keeping(recurrent_model: Path) -> None:
    with loaded_engine(recurrent_model, context=1024, kv_cells=1024, slots=2) as running:
        preparer = Preparer(running.loaded.model, "", WorkerSettings(name="m"), context_length=1024)
        prepared = preparer.prepare(pb.GenerateRequest(text="a"))
        assert (len(prepared.tokens), prepared.checkpoints) == (1, ())
        assert running.ask(prepared.tokens, max_tokens=2).wait().usage.completion_token_count == 2


def _chat(preparer: Preparer, system: pb.Message, question: str) -> Prepared:
    user = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text=question)])
    return preparer.prepare(pb.GenerateRequest(chat=pb.ChatPrompt(messages=[system, user])))
