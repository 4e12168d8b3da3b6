"""With the real 0.5B: what is said with guesses is what the model itself finds likeliest, and streams never stall."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from services.worker.speculation import SpeculationOptions
from tests.fakes.teacher import shortfall, teaching
from tests.fakes.worker_engine import Running, chat, running_worker

pytestmark = pytest.mark.integration

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
LINES = "\n".join(f'    "{name}": {value},' for value, name in enumerate(NAMES))
COPY = f"Repeat this code exactly, but name the variable NUMBERS:\n```python\nVALUES = {{\n{LINES}\n}}\n```"
GUESSED = 8


@pytest.fixture(scope="module")
def worker(small_model: Path) -> Iterator[Running]:
    with running_worker(small_model, context=8192) as running:
        yield running


def test_every_token_is_the_likeliest_within_what_rounding_does(worker: Running) -> None:
    said = worker.say(chat(COPY, max_tokens=120), SpeculationOptions("lookup", GUESSED))
    tokens, prompt_count = said.generation.tokens, said.generation.prompt_token_count
    with teaching(worker.loaded.model, cells=512) as teacher:
        one_by_one = teacher.logits(tokens, prompt_count, rows=1)
        together = teacher.logits(tokens, prompt_count, rows=GUESSED + 1)
    rounding = float(np.abs(one_by_one - together).max())
    assert said.finish.usage.accepted_draft_token_count > 0
    assert shortfall(one_by_one, said.tokens) <= 2 * rounding
    assert rounding < 3.0


def test_a_stream_goes_on_while_a_long_prompt_is_read(worker: Running) -> None:
    text = "\n".join(f"{number}. {COPY}" for number in range(20))
    stream = worker.submit(chat("Tell me a long story about the sea.", max_tokens=2000))
    while stream.generated_count < 4:
        time.sleep(0.01)
    began = time.monotonic()
    worker.say(chat(text, max_tokens=1))
    ended = time.monotonic()
    worker.engine.cancel(stream)
    assert sum(began <= at <= ended for at in worker.times_of(stream)) > 10
