"""With the real 0.5B: what is said with guesses is what the model itself finds likeliest, and streams never stall."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from services.worker.llama import Row
from services.worker.speculation import SpeculationOptions
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


def logits_behind(worker: Running, tokens: Sequence[int], prompt_count: int, *, rows: int) -> NDArray[np.float32]:
    """The logits at each generated place, with so many places computed in one step. Shape: (places, vocabulary)."""
    context, pool = worker.loaded.context, worker.loaded.pool
    sequence_id = pool.open(None, now=0.0)
    outputs = [output_of(worker, sequence_id, 0, tokens[:prompt_count])]
    for start in range(prompt_count, len(tokens) - 1, rows):
        some = tokens[start : min(start + rows, len(tokens) - 1)]
        (places,) = context.decode([Row(sequence_id, start, some, len(some))])
        outputs += [context.logits(place).copy() for place in places]
    pool.close(sequence_id)
    return np.stack(outputs)


def output_of(worker: Running, sequence_id: int, start: int, tokens: Sequence[int]) -> NDArray[np.float32]:
    (places,) = worker.loaded.context.decode([Row(sequence_id, start, tokens, 1)])
    return worker.loaded.context.logits(places[0]).copy()


def test_every_token_is_the_likeliest_within_what_rounding_does(worker: Running) -> None:
    said = worker.say(chat(COPY, max_tokens=120), SpeculationOptions("lookup", GUESSED))
    tokens, prompt_count = said.generation.tokens, said.generation.prompt_token_count
    one_by_one = logits_behind(worker, tokens, prompt_count, rows=1)
    together = logits_behind(worker, tokens, prompt_count, rows=GUESSED + 1)
    rounding = float(np.abs(one_by_one - together).max())
    chosen = one_by_one[np.arange(len(said.tokens)), said.tokens]
    assert said.finish.usage.accepted_draft_token_count > 0
    assert float((one_by_one.max(axis=1) - chosen).max()) <= 2 * rounding
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
