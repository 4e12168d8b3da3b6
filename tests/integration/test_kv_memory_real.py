"""The same with a real model: state that was moved, shared or preempted gives the logits of state that was not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.fakes.engine import LoadedEngine, loaded_engine
from tests.fakes.kv import best_match, compute, logits_after_each

pytestmark = pytest.mark.integration

TEXT = (
    "def read_lines(path):\n    with open(path) as file:\n        return [line.rstrip() for line in file]\n\n\n"
    "class Counter:\n    def __init__(self):\n        self.counts = {}\n\n    def add(self, word):\n"
)
MOST_DIFFERENCE = 0.5


def reused(running: LoadedEngine, tokens: Sequence[int]) -> int:
    """Parks a sequence, moves it out of the cells, brings it back and opens one that shares it."""
    pool = running.loaded.pool
    pool.park(compute(running, tokens), tokens, now=0.0)
    assert pool.make_room(pool.cell_count)
    match = best_match(running, [*tokens, 0])
    assert match is not None
    assert (match.length, pool.sources(match).ram) == (len(tokens), len(tokens))
    return pool.open(match, now=0.0)


def test_state_that_was_in_memory_gives_the_logits_of_state_that_was_not(small_model: Path) -> None:
    with loaded_engine(small_model, context=1024, kv_cells=1024, slots=2, threads=2) as running:
        running.engine.stop()
        tokens = running.tokens(TEXT * 12)[:600]
        probe = tokens[:12]
        context, pool = running.loaded.context, running.loaded.pool
        untouched = compute(running, tokens)
        expected = logits_after_each(context, untouched, probe, len(tokens))
        pool.close(untouched)
        found = logits_after_each(context, reused(running, tokens), probe, len(tokens))
    assert np.abs(found - expected).max() == 0


def test_crowded_requests_choose_the_tokens_that_they_choose_alone(small_model: Path) -> None:
    with loaded_engine(
        small_model, context=600, kv_cells=900, slots=4, parked_sequences=8, ram_bytes=200_000_000, threads=2
    ) as running:
        asked = [running.ask(f"# file {n}\n{TEXT * 3}", max_tokens=120) for n in range(8)]
        running.engine.cancel(asked[3].generation)
        for number, one in enumerate(asked):
            if number != 3:
                one.wait()
        running.engine.stop()
        running.loaded.pool.drop_parked()
        assert running.loaded.pool.used_cells == 0
        for number in (0, 5, 7):
            generation = asked[number].generation
            prompt_count = generation.prompt_token_count
            sequence_id = compute(running, generation.tokens[: prompt_count - 1])
            fed = generation.tokens[prompt_count - 1 : -1]
            logits = logits_after_each(running.loaded.context, sequence_id, fed, prompt_count - 1)
            running.loaded.pool.close(sequence_id)
            chosen = logits[np.arange(len(fed)), generation.tokens[prompt_count:]]
            assert (logits.max(axis=1) - chosen).max() < MOST_DIFFERENCE
