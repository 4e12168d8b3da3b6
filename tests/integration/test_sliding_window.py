"""Models with sliding-window layers reuse prefixes like others: no cell of a parked sequence is given away."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fakes.engine import LoadedEngine, loaded_engine
from tests.fakes.kv import best_match, compute, logits_after_each
from tests.fakes.tiny_models import write_windowed_model

pytestmark = pytest.mark.integration

WINDOW = 64
ROUNDING = 0.02  # logits are of the order of 5; a lost cell moves them by more than 0.5
TOKENS = [3 + (7 * i + i // 11) % 250 for i in range(700)]
OTHER = [3 + (5 * i + i // 7) % 250 for i in range(700)]
PROBE = TOKENS[40:52]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[LoadedEngine]:
    path = write_windowed_model(tmp_path / "windowed.gguf", window=512)
    overrides = {"gemma3.attention.sliding_window": WINDOW}
    with loaded_engine(
        path, context=1024, kv_cells=1536, slots=2, parked_sequences=4, metadata_overrides=overrides
    ) as running:
        running.engine.stop()
        yield running


@pytest.fixture
def expected(running: LoadedEngine) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """Logits after tokens that were computed at once, in a cache with nothing else in it."""
    sequence_id = compute(running, TOKENS)
    logits = logits_after_each(running.loaded.context, sequence_id, PROBE, len(TOKENS))
    running.loaded.pool.close(sequence_id)
    return logits


def test_the_window_is_the_one_that_the_settings_say(running: LoadedEngine) -> None:
    assert running.loaded.model.window == WINDOW
    assert running.loaded.model.forks_at_any_token


def test_a_parked_sequence_outlives_others_that_fill_the_cache(
    running: LoadedEngine, expected: "np.ndarray[tuple[int, int], np.dtype[np.float32]]"
) -> None:
    pool = running.loaded.pool
    before = compute(running, OTHER[:100])
    pool.park(compute(running, TOKENS), TOKENS, now=0.0)
    pool.close(before)
    compute(running, OTHER[:300])  # more than was freed before the parked cells, where llama.cpp looks first
    match = best_match(running, [*TOKENS, 0])
    assert match is not None
    assert (match.length, pool.sources(match).parked) == (700, 700)
    forked = pool.open(match, now=0.0)
    found = logits_after_each(running.loaded.context, forked, PROBE, len(TOKENS))
    assert np.abs(found - expected).max() < ROUNDING


def test_a_sequence_can_be_shared_in_its_middle_beyond_the_window(running: LoadedEngine) -> None:
    context, pool = running.loaded.context, running.loaded.pool
    alone = compute(running, TOKENS[:300])
    wanted = logits_after_each(context, alone, PROBE, 300)
    pool.close(alone)
    pool.park(compute(running, TOKENS), TOKENS, now=0.0)
    match = best_match(running, [*TOKENS[:300], 0, 0])
    assert match is not None
    assert match.length == 300
    found = logits_after_each(context, pool.open(match, now=0.0), PROBE, 300)
    assert np.abs(found - wanted).max() < ROUNDING


def test_state_comes_back_from_memory_although_blocks_are_longer_than_the_window(
    running: LoadedEngine, expected: "np.ndarray[tuple[int, int], np.dtype[np.float32]]"
) -> None:
    pool = running.loaded.pool
    pool.park(compute(running, TOKENS), TOKENS, now=0.0)
    assert pool.make_room(pool.cell_count)
    match = best_match(running, [*TOKENS, 0])
    assert match is not None
    assert (match.length, pool.sources(match).ram) == (700, 700)
    found = logits_after_each(running.loaded.context, pool.open(match, now=0.0), PROBE, len(TOKENS))
    assert np.abs(found - expected).max() < ROUNDING
