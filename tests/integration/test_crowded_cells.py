"""Many requests, few cells: all that are not cancelled say what they say alone, and no cell is lost."""

import random
import time
from pathlib import Path

import pytest

from tests.fakes.engine import loaded_engine

pytestmark = pytest.mark.integration

PROMPTS = ("Tell me a story", "Never stop", "Hello", "How is the weather?")
REQUESTS, CANCELLED, MOST_TOKENS = 64, 16, 120


def test_of_64_requests_all_that_are_not_cancelled_say_what_they_say_alone(scripted_chat_model: Path) -> None:
    chance = random.Random(5)
    with loaded_engine(scripted_chat_model, context=1024, kv_cells=2000, slots=4) as running:
        alone: dict[str, list[int]] = {}
        for prompt in PROMPTS:
            asked = running.ask(prompt, max_tokens=MOST_TOKENS)
            asked.wait()
            alone[prompt] = asked.generation.tokens[asked.generation.prompt_token_count :]
        crowd = []
        cancelled = set(chance.sample(range(REQUESTS), CANCELLED))
        for number in range(REQUESTS):
            prompt = chance.choice(PROMPTS)
            padding = "and go on " * chance.randint(0, 60)
            asked = running.ask(padding + prompt, max_tokens=chance.randint(1, MOST_TOKENS))
            crowd.append((prompt, asked))
            if number in cancelled:
                time.sleep(chance.random() * 0.02)
                running.engine.cancel(asked.generation)
        for number, (prompt, asked) in enumerate(crowd):
            if number not in cancelled:
                asked.wait()
                said = asked.generation.tokens[asked.generation.prompt_token_count :]
                assert said == alone[prompt][: asked.generation.max_tokens]
        running.engine.stop()
        running.loaded.pool.drop_parked()
        assert running.loaded.pool.used_cells == 0
