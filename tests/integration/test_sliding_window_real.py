"""The real Gemma-3-270m, whose layers look back 512 tokens, reuses beginnings like other models."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fakes.engine import LoadedEngine, loaded_engine
from tests.fakes.gemma import gemma_model
from tests.fakes.kv import best_match, compute, logits_after_each
from tests.fakes.teacher import teaching

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ROUNDING = 2.0  # other places in the cache, or steps of other sizes, move logits of this model by more than 1
LENGTH = 1100  # more than two windows


def story(hero: str) -> str:
    return f"The story of {hero}.\n" + "".join(
        f"On day {day} {hero} walked {day * 37 % 91} miles and met {day * 13 % 7} friends.\n" for day in range(1, 90)
    )


@pytest.fixture(scope="module")
def running() -> Iterator[LoadedEngine]:
    with loaded_engine(
        gemma_model(), context=1600, kv_cells=2400, slots=2, parked_sequences=4, parked_cells=2000,
        ram_bytes=400_000_000, threads=2,
    ) as running:  # fmt: skip
        yield running


def empty(running: LoadedEngine) -> None:
    running.loaded.pool.drop_parked()
    assert running.loaded.pool.used_cells == 0
    running.loaded.context.clear()


@pytest.fixture(scope="module")
def tokens(running: LoadedEngine) -> list[int]:
    return running.tokens(story("Ada"))[:LENGTH]


@pytest.fixture(scope="module")
def probe(running: LoadedEngine) -> list[int]:
    return running.tokens(" On day 5 Ada walked 3 miles and met")[1:]


@pytest.fixture(scope="module")
def expected(running: LoadedEngine, tokens: list[int], probe: list[int]) -> NDArray[np.float32]:
    """Logits behind all tokens, computed in a cache with nothing else in it."""
    running.engine.stop()
    empty(running)
    sequence_id = compute(running, tokens)
    logits = logits_after_each(running.loaded.context, sequence_id, probe, len(tokens))
    running.loaded.pool.close(sequence_id)
    return logits


def test_a_next_turn_takes_all_of_the_last_one_and_goes_on_as_if_read_anew(
    running: LoadedEngine, tokens: list[int]
) -> None:
    first = running.ask(tokens, max_tokens=24)
    first.wait()
    known = first.generation.tokens
    second = running.ask([*known, *running.tokens("\nOn day 90")[1:]], max_tokens=24)
    assert second.wait().usage.cached_token_count == len(known) - 1  # the last token was said, not read
    beside = running.ask([*tokens[:700], *running.tokens("\nOn day 91")[1:]], max_tokens=24)
    assert beside.wait().usage.cached_token_count == 700
    with teaching(running.loaded.model, cells=1600) as teacher:
        for asked in (first, second, beside):
            generation = asked.generation
            assert teacher.shortfall(generation.tokens, generation.prompt_token_count, rows=1) < ROUNDING


def test_a_parked_sequence_outlives_others_that_fill_the_cache(
    running: LoadedEngine, tokens: list[int], probe: list[int], expected: NDArray[np.float32]
) -> None:
    pool = running.loaded.pool
    empty(running)
    other = running.tokens(story("Bob"))
    before = compute(running, other[:600])
    pool.park(compute(running, tokens), tokens, now=0.0)
    pool.close(before)
    filler = compute(running, other[:1200])  # more than was freed before the parked cells
    match = best_match(running, [*tokens, 0])
    assert match is not None
    assert (match.length, pool.sources(match).parked) == (LENGTH, LENGTH)
    forked = pool.open(match, now=0.0)
    assert running.loaded.context.kv.holds(forked, LENGTH)
    found = logits_after_each(running.loaded.context, forked, probe, LENGTH)
    for sequence_id in (forked, filler):
        pool.close(sequence_id)
    assert np.abs(found - expected).max() < ROUNDING


def test_state_that_was_in_memory_gives_the_logits_of_state_that_was_not(
    running: LoadedEngine, tokens: list[int], probe: list[int], expected: NDArray[np.float32]
) -> None:
    pool = running.loaded.pool
    empty(running)
    pool.park(compute(running, tokens), tokens, now=0.0)
    assert pool.make_room(pool.cell_count)
    match = best_match(running, [*tokens, 0])
    assert match is not None
    assert (match.length, pool.sources(match).ram) == (LENGTH, LENGTH)
    found = logits_after_each(running.loaded.context, pool.open(match, now=0.0), probe, LENGTH)
    assert np.abs(found - expected).max() == 0


def test_the_window_is_that_of_the_file(running: LoadedEngine) -> None:
    assert running.loaded.model.window == 512
    assert running.loaded.model.forks_at_any_token
