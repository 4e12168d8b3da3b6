"""Saving never holds a step up for long, however many bytes a token's state has."""

import pytest

from services.worker.kv_pool import KvPool
from services.worker.parking import CacheSources
from services.worker.ram_tier import RamTier
from tests.fakes.index_contract import Clock
from tests.unit.services.worker.fake_llama import FakeContext

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
