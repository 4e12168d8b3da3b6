import time
from collections.abc import Callable, Sequence

import pytest

from services.worker.blocks import BLOCK_TOKENS
from services.worker.kv_pool import KvPool
from services.worker.parking import CacheSources, Match
from services.worker.ram_tier import RamTier
from tests.fakes.index_contract import Clock
from tests.unit.services.worker.fake_llama import FakeContext

Running = list[tuple[int, Sequence[int], int]]
NOBODY: Running = []


class Pool:
    """A pool over a context that refuses what llama.cpp would."""

    def __init__(
        self, *, cells: int = 100, parked: int = 4, parked_cells: int | None = None, ram: int = 0, forks: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.context = FakeContext(cells=cells)
        self.store = RamTier(ram)
        self.pool = KvPool(
            self.context,
            cells=cells,
            sequences=2 + parked,
            parked_sequences=parked,
            parked_cells=cells if parked_cells is None else parked_cells,
            forks=forks,
            store=self.store if ram else None,
            clock=clock,
        )

    def compute(self, tokens: Sequence[int], match: Match | None = None, *, now: float = 0.0) -> int:
        """Opens a sequence and computes what of its tokens is not shared."""
        sequence_id = self.pool.open(match, now=now)
        new = tokens[match.length if match else 0 :]
        assert self.pool.make_room(len(new))
        self.context.sequences.setdefault(sequence_id, []).extend(new)
        self.pool.extend(sequence_id, len(new))
        return sequence_id

    def park(self, tokens: Sequence[int], *, now: float = 0.0) -> int:
        sequence_id = self.compute(tokens, now=now)
        self.pool.park(sequence_id, tokens, now=now)
        return sequence_id

    def match(self, tokens: Sequence[int], running: Running = NOBODY) -> Match | None:
        return self.pool.best_match(self.pool.key(tokens), running)

    def fetch(self, tokens: Sequence[int], running: Running = NOBODY, *, is_streaming: bool = False) -> int:
        """Fetches until all is there, as the engine does; returns how many calls that took."""
        key = self.pool.key(tokens)
        for number in range(1, 100):
            if not self.pool.fetch(key, self.pool.best_match(key, running), now=0.0, is_streaming=is_streaming):
                return number
            self.tidy(is_busy=is_streaming, is_streaming=is_streaming)
        raise AssertionError("fetching does not end")

    def tidy(self, *, is_busy: bool = True, is_streaming: bool = False) -> None:
        self.pool.housekeeping(is_busy=is_busy, is_streaming=is_streaming, prefill_rate=100.0)


def test_the_next_turn_shares_the_cells_of_the_parked_one() -> None:
    made = Pool()
    parked_id = made.park([1, 2, 3, 4], now=1.0)
    match = made.match([1, 2, 3, 4, 5, 6])
    assert match == Match(parked_id, 4)
    assert made.pool.sources(match) == CacheSources(parked=4)
    made.pool.open(match, now=2.0)
    assert made.pool.used_cells == 4


def test_the_last_token_of_a_prompt_is_always_left_to_compute() -> None:
    made = Pool()
    parked_id = made.park([1, 2, 3, 4])
    assert made.match([1, 2, 3, 4]) == Match(parked_id, 3)


def test_a_running_sequence_can_be_shared_as_far_as_it_is_computed() -> None:
    made = Pool()
    running_id = made.compute([1, 2])
    match = made.match([1, 2, 3], [(running_id, [1, 2, 3, 4], 2)])
    assert match == Match(running_id, 2)
    assert made.pool.sources(match) == CacheSources(running=2)


def test_a_running_sequence_that_was_cut_back_is_not_shared_beyond_the_cut() -> None:
    made = Pool()
    running_id = made.compute([1, 2, 3])
    assert made.match([1, 2, 3, 4], [(running_id, [1, 2, 3], 3)]) == Match(running_id, 3)
    made.pool.truncate(running_id, 1)
    assert made.match([1, 2, 3, 4], [(running_id, [1, 9], 1)]) == Match(running_id, 1)


def test_a_parked_beginning_of_a_newly_parked_conversation_is_dropped() -> None:
    made = Pool()
    made.park([1, 2])
    made.park([1, 2, 3])
    assert (made.pool.parked_count, made.pool.used_cells) == (1, 3)


def test_the_oldest_parked_conversation_makes_room() -> None:
    made = Pool(cells=10)
    now = time.monotonic()
    made.park([1] * 5, now=now)
    newest = made.park([2] * 5, now=now + 1)
    assert made.pool.make_room(4)
    assert made.match([2] * 6) == Match(newest, 5)
    assert made.match([1] * 6) is None


def test_a_conversation_that_was_continued_outlives_a_newer_one_that_was_not() -> None:
    made = Pool(cells=20)
    now = time.monotonic()
    made.park([1] * 5, now=now)
    made.pool.park(made.compute([1] * 6, made.match([1] * 6), now=now), [1] * 6, now=now)
    made.park([2] * 5, now=now + 1)
    assert made.pool.make_room(12)
    assert made.match([1] * 7) is not None
    assert made.match([2] * 7) is None


def test_a_beginning_that_many_shared_stays_when_the_conversation_that_carries_it_is_old() -> None:
    clock = Clock()
    made = Pool(cells=8 * BLOCK_TOKENS, clock=clock)
    prompt = [7] * BLOCK_TOKENS
    made.park(prompt + [1] * BLOCK_TOKENS, now=clock())
    for number in range(2, 8):  # each shares the prompt, and its own part is gone soon after
        clock.now += 60.0
        asked = prompt + [number] * 40
        made.pool.close(made.compute(asked, made.match(asked), now=clock()))
    clock.now += 5.0
    made.park([8] * BLOCK_TOKENS * 3, now=clock())
    clock.now += 15.0
    assert made.pool.make_room(6 * BLOCK_TOKENS)
    match = made.match([*prompt, 9])
    assert match is not None
    assert match.length == BLOCK_TOKENS
    old_end = made.match(prompt + [1] * BLOCK_TOKENS)
    assert old_end is not None
    assert old_end.length == BLOCK_TOKENS
    assert made.match([8] * BLOCK_TOKENS * 3) is not None


def test_a_sequence_id_is_not_taken_from_the_one_that_alone_carries_a_much_used_beginning() -> None:
    clock = Clock()
    made = Pool(cells=12 * BLOCK_TOKENS, parked=1, clock=clock)
    prompt = [7] * BLOCK_TOKENS
    made.park(prompt + [1] * BLOCK_TOKENS, now=clock())
    for number in range(2, 8):
        clock.now += 60.0
        asked = prompt + [number] * 40
        made.pool.close(made.compute(asked, made.match(asked), now=clock()))
    made.park([8] * BLOCK_TOKENS, now=clock())
    clock.now += 15.0
    for _ in range(2):
        made.pool.open(None, now=clock())
    assert made.match([*prompt, 9]) is not None
    assert made.match([8] * BLOCK_TOKENS) is None


def test_what_runs_makes_no_room() -> None:
    made = Pool(cells=10)
    made.compute([1] * 8)
    assert not made.pool.make_room(3)


def test_what_a_match_shares_is_no_room_for_those_who_share_it() -> None:
    made = Pool(cells=20)
    made.park([1] * 8)
    made.park([2] * 4)
    assert made.pool.room_beside(None) == 20
    assert made.pool.room_beside(made.match([1] * 9)) == 12


def test_the_matched_conversation_outlives_the_search_for_a_sequence_id() -> None:
    made = Pool(parked=4)
    oldest = made.park([9, 9, 9])
    for number in range(1, 4):
        made.park([number] * 2, now=float(number))
    opened = [made.pool.open(None, now=5.0) for _ in range(2)]
    sequence_id = made.pool.open(Match(oldest, 3), now=6.0)
    assert sequence_id not in opened
    assert made.match([9, 9, 9, 9]) == Match(oldest, 3)


@pytest.mark.parametrize("made", [{"forks": False}, {"parked": 0}])
def test_without_forking_or_ids_for_it_nothing_is_parked(made: dict[str, int]) -> None:
    pool = Pool(**made)  # type: ignore[arg-type]
    pool.park([1, 2, 3])
    assert (pool.pool.parked_count, pool.pool.used_cells) == (0, 0)
    assert pool.match([1, 2, 3]) is None


def test_parked_conversations_are_brought_within_their_budget_while_others_work() -> None:
    made = Pool(parked_cells=10)
    made.park([1] * 6, now=1.0)
    made.park([2] * 6, now=2.0)
    made.tidy(is_busy=False)
    assert made.pool.used_cells == 12
    made.tidy()
    assert (made.pool.parked_count, made.pool.used_cells) == (1, 6)


def test_a_lone_request_is_given_the_cells_of_what_is_parked_beyond_the_budget() -> None:
    made = Pool(cells=1000, ram=100_000, parked_cells=BLOCK_TOKENS)
    parked_id = made.park(range(3 * BLOCK_TOKENS))
    made.tidy(is_busy=False)
    made.pool.clear_the_way()
    assert made.pool.lengths() == {parked_id: BLOCK_TOKENS}
    assert made.pool.stored_length(made.pool.key(range(3 * BLOCK_TOKENS + 1)), None) == 3 * BLOCK_TOKENS


@pytest.mark.parametrize(("wanted", "kept"), [(2, 256), (256, 256), (257, 512), (600, 600)])
def test_what_requests_begin_with_keeps_its_cells_and_what_follows_gives_them_up(wanted: int, kept: int) -> None:
    made = Pool(cells=2000, ram=100_000, parked_cells=0)
    other_id = made.park(range(1000, 1000 + 2 * BLOCK_TOKENS))
    parked_id = made.park(range(600))
    made.tidy(is_busy=False)
    made.pool.clear_the_way([Match(parked_id, wanted), Match(parked_id, 1)])
    assert made.pool.lengths() == {parked_id: kept}
    assert other_id != parked_id


def test_what_a_request_begins_with_does_not_count_as_parked_beyond_the_budget() -> None:
    made = Pool(cells=2000, ram=100_000, parked_cells=BLOCK_TOKENS)
    other_id = made.park(range(1000, 1000 + BLOCK_TOKENS))
    parked_id = made.park(range(2 * BLOCK_TOKENS))
    made.tidy(is_busy=False)
    made.pool.clear_the_way([Match(parked_id, 300)])
    assert made.pool.lengths() == {other_id: BLOCK_TOKENS, parked_id: 2 * BLOCK_TOKENS}


def test_what_a_request_shares_itself_is_not_needed_of_the_parked_sequence_any_more() -> None:
    made = Pool(cells=2000, ram=100_000, parked_cells=0)
    parked_id = made.park(range(600))
    running_id = made.pool.open(made.match([*range(300), 7]), now=1.0)
    made.pool.clear_the_way()
    assert made.pool.lengths() == {running_id: 300, parked_id: BLOCK_TOKENS}  # cells of the running one
    assert made.pool.used_cells == 300
    assert made.pool.stored_length(made.pool.key(range(601)), made.match(range(601))) == 600


def test_the_way_is_not_cleared_of_what_is_within_the_budget() -> None:
    made = Pool(cells=1000, ram=100_000, parked_cells=3 * BLOCK_TOKENS)
    parked_id = made.park(range(3 * BLOCK_TOKENS))
    made.pool.clear_the_way()
    assert made.pool.lengths() == {parked_id: 3 * BLOCK_TOKENS}


def test_a_sequence_that_lost_cells_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Pool()
    made.park([1, 2, 3])
    monkeypatch.setattr(made.context, "holds", lambda sequence_id, length: False)
    assert made.match([1, 2, 3, 4]) is None
    assert (made.pool.parked_count, made.pool.used_cells) == (0, 0)


LONG = list(range(1, 701))


def test_state_that_left_the_cells_comes_back_whole() -> None:
    made = Pool(cells=1000, ram=100_000)
    made.park(LONG)
    assert made.pool.make_room(1000)
    assert made.pool.used_cells == 0
    assert len(made.store) == 3
    made.fetch([*LONG, 5])
    match = made.match([*LONG, 5])
    assert match is not None
    assert made.context.sequences[match.sequence_id] == LONG
    assert made.pool.sources(match) == CacheSources(ram=700)


def test_cells_are_taken_from_the_end_and_only_the_missing_end_comes_back() -> None:
    made = Pool(cells=1000, ram=100_000)
    parked_id = made.park(LONG)
    assert made.pool.make_room(301)
    assert made.match([*LONG, 5]) == Match(parked_id, 512)
    made.fetch([*LONG, 5])
    assert made.context.restored_count == 188
    assert made.pool.sources(made.match([*LONG, 5])) == CacheSources(parked=512, ram=188)


def test_fetched_blocks_continue_what_a_running_request_shares() -> None:
    made = Pool(cells=2000, ram=100_000)
    made.park(LONG)
    assert made.pool.make_room(2000)
    running_id = made.compute(LONG[:300])
    running: Running = [(running_id, LONG[:300], 300)]
    made.fetch([*LONG, 5], running)
    assert made.pool.sources(made.match([*LONG, 5], running)) == CacheSources(running=300, ram=400)


def test_while_answers_are_decoded_one_block_moves_a_step() -> None:
    made = Pool(cells=1000, ram=100_000, parked_cells=0, clock=Clock())
    made.park(LONG)
    made.tidy(is_streaming=True)  # a few tokens, to see how long that takes
    for blocks_left in (2, 1, 0):
        made.tidy(is_streaming=True)
        assert made.pool.used_cells == blocks_left * BLOCK_TOKENS
    assert made.fetch([*LONG, 5], is_streaming=True) == 3


def test_a_fetch_keeps_its_cells_until_its_request_is_gone() -> None:
    made = Pool(cells=1000, ram=100_000, parked_cells=0)
    made.park(LONG)
    assert made.pool.make_room(1000)
    key = made.pool.key([*LONG, 5])
    assert made.pool.fetch(key, None, now=0.0, is_streaming=True)
    for _ in range(2):
        assert made.pool.used_cells == 256
        made.tidy(is_streaming=True)
    assert made.pool.used_cells == 0


def test_a_second_request_waits_for_the_fetch_of_the_first_one() -> None:
    made = Pool(cells=2000, ram=100_000)
    others = [-token for token in LONG]
    made.park(LONG)
    made.park(others)
    assert made.pool.make_room(2000)
    first, second = made.pool.key([*LONG, 5]), made.pool.key([*others, 5])
    assert made.pool.fetch(first, None, now=0.0, is_streaming=True)
    assert made.pool.fetch(second, None, now=0.0, is_streaming=True)
    assert made.context.restored_count == 256


def test_each_block_is_stored_once_however_many_conversations_hold_it() -> None:
    made = Pool(cells=3000, ram=100_000)
    for end in range(3):
        made.park([*LONG, end], now=float(end))
    assert made.pool.make_room(3000)
    assert len(made.store) == 2 + 3


def test_an_idle_engine_saves_what_is_parked_and_keeps_it_in_cells() -> None:
    made = Pool(cells=1000, ram=100_000, parked_cells=0)
    made.park(LONG)
    assert made.pool.is_untidy
    made.tidy(is_busy=False)
    assert not made.pool.is_untidy
    assert (made.pool.used_cells, len(made.store)) == (700, 3)


def test_state_is_computed_anew_where_that_is_faster_than_bringing_it_back() -> None:
    made = Pool(cells=1000, ram=100_000)
    made.park(LONG)
    assert made.pool.make_room(1000)
    made.fetch(LONG[:300])  # learns the rate
    made.pool.drop_parked()
    made.pool.housekeeping(is_busy=True, is_streaming=False, prefill_rate=1e12)
    made.fetch([*LONG, 5])
    assert made.match([*LONG, 5]) is None


def test_state_that_was_slow_to_come_back_once_is_tried_again_some_time() -> None:
    made = Pool(cells=1000, ram=100_000, clock=Clock())
    made.park(LONG)
    assert made.pool.make_room(1000)
    made.fetch(LONG[:300])  # the clock stands still: as fast as can be measured
    made.pool.drop_parked()
    made.pool.housekeeping(is_busy=True, is_streaming=False, prefill_rate=1e10)
    made.fetch([*LONG, 5])
    assert made.match([*LONG, 5]) is None
    for _ in range(30):
        made.fetch([*LONG, 5])
    assert made.match([*LONG, 5])


def test_without_memory_for_blocks_the_end_is_dropped_and_the_beginning_stays() -> None:
    made = Pool(cells=1000)
    parked_id = made.park(LONG)
    assert made.pool.make_room(301)
    assert made.match([*LONG, 5]) == Match(parked_id, 512)
