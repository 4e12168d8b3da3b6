"""Saving never holds a step up for long, however many bytes a token's state has."""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import pytest

from services.worker.compute_lock import NoComputeLock
from services.worker.engine import Engine, EngineLimits
from services.worker.kv_pool import KvPool
from services.worker.llama import Row
from services.worker.parked_sequences import PAUSE_SECONDS
from services.worker.parking import CacheSources
from services.worker.ram_tier import RamTier
from tests.fakes.index_contract import Clock
from tests.unit.services.worker.fake_llama import FakeContext, FakeModel, expected
from tests.unit.services.worker.test_engine import Request, deliver

BYTES_PER_SECOND = 1e9
LARGE, SMALL = 320_000, 12_300  # bytes a token: a model of 70 billion parameters, one of half a billion
TOKENS = list(range(1, 701))


class Paced:
    """A parked conversation of 700 tokens whose state is copied at a rate, by a clock of its own."""

    def __init__(self, bytes_per_token: int, *, parked_cells: int = 2000) -> None:
        self.clock, self.store = Clock(), RamTier(100_000)
        self.copied: list[int] = []
        context = FakeContext()

        def on_save(token_count: int) -> None:
            self.copied.append(token_count)
            self.clock.now += token_count * bytes_per_token / BYTES_PER_SECOND

        context.on_save = on_save
        self.pool = KvPool(
            context, cells=2000, sequences=6, parked_sequences=4, parked_cells=parked_cells, forks=True,
            store=self.store, clock=self.clock,
        )  # fmt: skip
        sequence_id = self.pool.open(None, now=0.0)
        context.sequences[sequence_id] = list(TOKENS)
        self.pool.extend(sequence_id, len(TOKENS))
        self.pool.park(sequence_id, TOKENS, now=0.0)

    def step(self, *, is_busy: bool, is_streaming: bool) -> float:
        started = self.clock()
        self.pool.housekeeping(is_busy=is_busy, is_streaming=is_streaming, prefill_rate=10.0)
        return self.clock() - started

    def steps(self, *, is_busy: bool, is_streaming: bool) -> list[float]:
        """How long each step took that still copied something."""
        taken = []
        while seconds := self.step(is_busy=is_busy, is_streaming=is_streaming):
            taken.append(seconds)
            assert len(taken) < 1000
        return taken


@pytest.mark.parametrize(
    ("is_busy", "is_streaming", "most_seconds"), [(False, False, 0.02), (True, False, 0.02), (True, True, 0.005)]
)
def test_a_step_copies_no_longer_than_it_may_though_a_block_takes_82_milliseconds(
    is_busy: bool, is_streaming: bool, most_seconds: float
) -> None:
    paced = Paced(LARGE, parked_cells=0)
    taken = paced.steps(is_busy=is_busy, is_streaming=is_streaming)
    assert max(taken) <= most_seconds + 0.0002  # before the rate is known, 16 tokens are copied
    assert len(paced.store) == 3
    assert sum(paced.copied) == len(TOKENS)


def test_time_is_used_well() -> None:
    taken = Paced(LARGE).steps(is_busy=False, is_streaming=False)
    ideal = len(TOKENS) * LARGE / BYTES_PER_SECOND / 0.02
    assert len(taken) < 1.5 * ideal + 1


@pytest.mark.parametrize("bytes_per_token", [LARGE, SMALL])
def test_what_was_saved_in_parts_comes_back_whole(bytes_per_token: int) -> None:
    paced = Paced(bytes_per_token, parked_cells=0)
    paced.steps(is_busy=True, is_streaming=True)
    assert paced.pool.used_cells == 0
    key = paced.pool.key([*TOKENS, 5])
    while paced.pool.fetch(key, paced.pool.best_match(key, []), now=0.0, is_streaming=False):
        pass
    match = paced.pool.best_match(key, [])
    assert match is not None
    assert paced.pool.sources(match) == CacheSources(ram=len(TOKENS))


def test_a_block_of_a_small_model_is_saved_at_once() -> None:
    paced = Paced(SMALL)
    paced.steps(is_busy=False, is_streaming=True)
    assert paced.copied[2:] == [256, 188]  # the first one taught the rate


def test_what_must_go_at_once_is_saved_whole_and_goes_on_where_saving_began() -> None:
    paced = Paced(LARGE, parked_cells=0)
    paced.step(is_busy=True, is_streaming=True)
    assert paced.copied == [16]
    assert paced.pool.make_room(2000)
    assert paced.copied == [16, 172, 256, 256]
    assert len(paced.store) == 3


def test_room_is_made_in_pauses_that_streams_can_bear() -> None:
    paced = Paced(LARGE)
    started, taken = paced.clock.now, []
    while not paced.pool.make_room(2000, seconds=PAUSE_SECONDS):
        taken.append(paced.clock.now)
        assert paced.pool.can_free_cells()
    pauses = [after - before for before, after in pairwise([started, *taken, paced.clock.now])]
    assert max(pauses) <= PAUSE_SECONDS + 0.0002
    assert len(pauses) >= len(TOKENS) * LARGE / BYTES_PER_SECOND / PAUSE_SECONDS
    assert (len(paced.store), sum(paced.copied)) == (3, len(TOKENS))


def test_an_id_is_taken_from_a_conversation_in_a_pause_that_streams_can_bear() -> None:
    paced = Paced(LARGE)
    paced.step(is_busy=True, is_streaming=True)
    started = paced.clock.now
    for _ in range(6):
        paced.pool.open(None, now=0.0)
    assert 0 < paced.clock.now - started <= PAUSE_SECONDS + 0.0002


def test_no_stream_waits_long_while_another_prompt_takes_the_cells_of_parked_conversations() -> None:
    clock, context, store = Clock(), PausingContext(cells=2000), RamTier(1_000_000)
    context.on_save = lambda token_count: context.pause(clock, token_count * LARGE / BYTES_PER_SECOND)
    pool = KvPool(
        context, cells=2000, sequences=8, parked_sequences=4, parked_cells=2000, forks=True, store=store, clock=clock
    )
    limits = EngineLimits(slots=4, queue_size=10, batch_tokens=64, step_budget_seconds=0.25)
    engine = Engine(cast("Any", FakeModel()), cast("Any", context), pool, NoComputeLock(), limits, deliver)
    engine.start()
    try:
        stream = Request([1] * 10, max_tokens=900)
        engine.submit(stream.generation)
        stream.next()
        context.longest_pause = 0.0
        asked = [Request([number] * length, max_tokens=1) for number, length in ((2, 1200), (3, 900))]
        for request in asked:
            engine.submit(request.generation)
            request.wait()
        longest_pause = context.longest_pause  # idle, the engine may take its time
        is_open = stream.generation.is_running
        stream.wait()
    finally:
        engine.stop()
    assert is_open  # all the while
    assert longest_pause <= PAUSE_SECONDS + 0.01
    assert len(store) > 0
    assert stream.generated == expected(stream.prompt, 900)
    assert [request.generated for request in asked] == [expected(request.prompt, 1) for request in asked]


class PausingContext(FakeContext):
    """Knows how long state was copied between two steps."""

    longest_pause = _pause = 0.0

    def pause(self, clock: Clock, seconds: float) -> None:
        clock.now += seconds
        self._pause += seconds
        self.longest_pause = max(self.longest_pause, self._pause)

    def decode(self, rows: Sequence[Row]) -> list[range]:
        self._pause = 0.0
        time.sleep(0.0005)  # so that a stream of 900 steps outlasts prompts of 35
        return super().decode(rows)
