"""With real models: a draft model is often right, changes nothing, and is not asked where it costs too much."""

from pathlib import Path

import numpy as np
import pytest

from services.worker.llama import LoadFailed
from services.worker.speculation import SpeculationOptions
from tests.fakes.gemma import gemma_model
from tests.fakes.speculation import every_guess_looks_worth_making
from tests.fakes.teacher import shortfall, teaching
from tests.fakes.worker_engine import Said, chat, running_worker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

DRAFT = SpeculationOptions("draft", 4)
QUESTIONS = ("Write a Python function that reverses a list.", "What is a hash table? Answer in two sentences.")


def guessed(said: Said) -> int:
    return said.finish.usage.accepted_draft_token_count + said.finish.usage.rejected_draft_token_count


def test_a_draft_model_is_often_right_and_every_token_is_the_targets_own(real_model: Path, small_model: Path) -> None:
    with (
        every_guess_looks_worth_making(),
        running_worker(real_model, context=1024, kv_cells=1024, slots=1, draft_path=small_model) as running,
    ):
        answers = [running.say(chat(question, max_tokens=48), DRAFT) for question in QUESTIONS]
        usages = [said.finish.usage for said in answers]
        assert all(usage.accepted_draft_token_count > 0 for usage in usages)
        accepted, known = sum(usage.accepted_draft_token_count for usage in usages), running.engine.guesses
        assert (known.drafted["draft"], known.accepted["draft"]) == (sum(map(guessed, answers)), accepted)
        assert accepted > 0.4 * known.drafted["draft"]
        with teaching(running.loaded.model, cells=512) as teacher:
            for said in answers:
                tokens, prompt_count = said.generation.tokens, said.generation.prompt_token_count
                one_by_one = teacher.logits(tokens, prompt_count, rows=1)
                together = teacher.logits(tokens, prompt_count, rows=DRAFT.max_tokens + 1)
                rounding = float(np.abs(one_by_one - together).max())
                assert rounding < 3.0
                assert shortfall(one_by_one, said.tokens) <= 2 * rounding


def test_a_draft_model_that_costs_more_than_it_brings_is_not_asked(real_model: Path, small_model: Path) -> None:
    with running_worker(real_model, context=1024, kv_cells=1024, slots=1, draft_path=small_model) as running:
        said = running.say(chat(QUESTIONS[0], max_tokens=48), DRAFT)
    assert guessed(said) <= len(said.tokens) / 4


def test_a_draft_model_of_another_vocabulary_is_refused(small_model: Path) -> None:
    with (
        pytest.raises(LoadFailed, match="can't draft for test: their vocabularies have 151936 and 262144 tokens"),
        running_worker(small_model, context=512, kv_cells=512, draft_path=gemma_model()),
    ):
        pass
