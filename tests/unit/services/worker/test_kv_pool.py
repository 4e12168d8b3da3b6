from services.worker.kv_pool import KvPool
from services.worker.parking import Match


class FakeMemory:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def fork(self, source_id: int, target_id: int, length: int) -> None:
        self.calls.append(("fork", source_id, target_id, length))

    def remove(self, sequence_id: int, start: int = 0) -> bool:
        self.calls.append(("remove", sequence_id))
        return True

    def clear(self) -> None:
        self.calls.append(("clear",))


def make_pool(memory: FakeMemory | None = None, *, cells: int = 100, parked: int = 4, forks: bool = True) -> KvPool:
    return KvPool(
        memory or FakeMemory(),
        cells=cells,
        sequences=2 + parked,
        parked_sequences=parked,
        parked_cells=cells,
        forks=forks,
    )


def park(pool: KvPool, tokens: list[int], *, now: float) -> int:
    sequence_id = pool.open(None, now=now)
    pool.extend(sequence_id, len(tokens))
    pool.park(sequence_id, tokens, now=now)
    return sequence_id


def test_the_next_turn_shares_the_cells_of_the_parked_one() -> None:
    memory = FakeMemory()
    pool = make_pool(memory)
    parked_id = park(pool, [1, 2, 3, 4], now=1.0)
    match = pool.best_match([1, 2, 3, 4, 5, 6], running=[])
    assert match == Match(parked_id, 4)
    sequence_id = pool.open(match, now=2.0)
    assert memory.calls == [("fork", parked_id, sequence_id, 4)]
    assert pool.used_cells == 4


def test_the_last_token_of_a_prompt_is_always_left_to_compute() -> None:
    pool = make_pool()
    parked_id = park(pool, [1, 2, 3, 4], now=1.0)
    assert pool.best_match([1, 2, 3, 4], running=[]) == Match(parked_id, 3)


def test_a_running_sequence_can_be_shared_too() -> None:
    assert make_pool().best_match([1, 2, 3], running=[(7, [1, 2])]) == Match(7, 2)


def test_a_parked_beginning_of_a_newly_parked_conversation_is_dropped() -> None:
    pool = make_pool()
    park(pool, [1, 2], now=1.0)
    park(pool, [1, 2, 3], now=2.0)
    assert (pool.parked_count, pool.used_cells) == (1, 3)


def test_the_oldest_parked_conversation_makes_room() -> None:
    pool = make_pool(cells=10)
    park(pool, [1] * 5, now=1.0)
    newest = park(pool, [2] * 5, now=2.0)
    assert pool.make_room(4)
    assert pool.best_match([2] * 6, running=[]) == Match(newest, 5)
    assert pool.best_match([1] * 6, running=[]) is None


def test_what_runs_makes_no_room() -> None:
    pool = make_pool(cells=10)
    sequence_id = pool.open(None, now=0.0)
    pool.extend(sequence_id, 8)
    assert not pool.make_room(3)


def test_the_matched_conversation_outlives_the_search_for_a_sequence_id() -> None:
    pool = make_pool(parked=4)
    oldest = park(pool, [9, 9, 9], now=0.0)
    for number in range(1, 4):
        park(pool, [number], now=float(number))
    opened = [pool.open(None, now=5.0) for _ in range(2)]
    sequence_id = pool.open(Match(oldest, 3), now=6.0)
    assert sequence_id not in opened
    assert pool.best_match([9, 9, 9, 9], running=[]) == Match(oldest, 3)


def test_without_forking_nothing_is_parked() -> None:
    pool = make_pool(forks=False)
    park(pool, [1, 2, 3], now=1.0)
    assert (pool.parked_count, pool.used_cells) == (0, 0)
    assert pool.best_match([1, 2, 3], running=[]) is None


def test_parked_conversations_stay_within_their_budget() -> None:
    pool = KvPool(FakeMemory(), cells=100, sequences=8, parked_sequences=6, parked_cells=10, forks=True)
    park(pool, [1] * 6, now=1.0)
    park(pool, [2] * 6, now=2.0)
    assert (pool.parked_count, pool.used_cells) == (1, 6)
