"""The same with the real 0.5B: whatever it says in a crowd, it itself finds likeliest when it reads that alone."""

import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fakes.engine import Asked, LoadedEngine, loaded_engine
from tests.fakes.teacher import teaching

pytestmark = pytest.mark.integration

REQUESTS, CANCELLED, SLOTS, CELLS = 64, 16, 4, 2000
LONGEST = 45
"""Functions in a file of 1,000 tokens: of four such prompts, two fit the cells."""
MOST_DIFFERENCE = 0.5
SUBJECTS = ("colour", "weight", "price", "shape", "sound", "speed")
LARGE_ROUNDS = 8  # several minutes each


def source_file(subject: str, *, functions: int) -> str:
    """A text of its own from its first line on, of about 22 tokens a function."""
    return f"# All about {subject}.\n" + "".join(
        f"def {subject}_{number}(value):\n    return value * {number * 7 % 50} + {number}\n\n\n"
        for number in range(functions)
    )


def ask_crowd(running: LoadedEngine, chance: random.Random, *, functions: int, most_tokens: int) -> list[Asked]:
    """Requests that begin like one of several files, each with an end of its own; the first ones are sure to crowd."""
    crowd = []
    for number in range(REQUESTS):
        text = source_file(chance.choice(SUBJECTS), functions=chance.randint(functions // 2, functions))
        if number < SLOTS:
            text = source_file(SUBJECTS[number], functions=LONGEST)
        crowd.append(running.ask(f"{text}# Example {number}:\n", max_tokens=chance.randint(1, most_tokens)))
    return crowd


def cancel_some(running: LoadedEngine, crowd: Sequence[Asked], chance: random.Random, *, longest_wait: float) -> None:
    """Cancels requests that wait, are read or are being answered, whichever it meets."""
    for asked in chance.sample(crowd[SLOTS:], CANCELLED):
        time.sleep(chance.random() * longest_wait)
        running.engine.cancel(asked.generation)


@pytest.mark.timeout(3600)
def test_of_64_requests_each_chooses_what_it_would_choose_alone(small_model: Path, rounds: range) -> None:
    is_soak = len(rounds) > 1
    functions, most_tokens = (LONGEST, 120) if is_soak else (36, 24)
    for number in rounds[:LARGE_ROUNDS]:
        chance = random.Random(number + 1)
        with loaded_engine(
            small_model, context=1200, kv_cells=CELLS, slots=SLOTS, parked_sequences=8, ram_bytes=200_000_000, threads=2
        ) as running:
            crowd = ask_crowd(running, chance, functions=functions, most_tokens=most_tokens)
            cancel_some(running, crowd, chance, longest_wait=10 if is_soak else 4)
            for asked in crowd:
                if not asked.generation.is_cancelled:
                    asked.wait(timeout=1800)
            assert any(asked.generation.blocked_at >= 0 for asked in crowd)  # waited for cells
            running.engine.stop()
            running.loaded.pool.drop_parked()
            assert running.loaded.pool.used_cells == 0
            generations = [asked.generation for asked in crowd if asked.generation.generated_count]
            with teaching(running.loaded.model, cells=1200) as teacher:
                for one in sorted(generations, key=lambda one: one.tokens):  # so that each shares much with the last
                    assert teacher.shortfall(one.tokens, one.prompt_token_count) <= MOST_DIFFERENCE
