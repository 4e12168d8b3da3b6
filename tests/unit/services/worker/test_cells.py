import random

import pytest

from services.worker.cells import CellLedger


def test_a_fork_takes_no_cells() -> None:
    ledger = CellLedger(10)
    ledger.extend(0, 6)
    ledger.fork(0, 1, 4)
    assert (ledger.used_count, ledger.free_count) == (6, 4)
    assert ledger.length(1) == 4


def test_shared_cells_are_free_only_when_the_last_owner_leaves() -> None:
    ledger = CellLedger(10)
    ledger.extend(0, 6)
    ledger.fork(0, 1, 4)
    assert ledger.released_by(0) == 2
    ledger.release(0)
    assert ledger.used_count == 4
    ledger.release(1)
    assert ledger.used_count == 0


def test_truncating_frees_the_end() -> None:
    ledger = CellLedger(10)
    ledger.extend(0, 6)
    ledger.truncate(0, 2)
    assert (ledger.used_count, ledger.length(0)) == (2, 2)


def test_a_fork_keeps_its_cells_when_the_source_is_cut_and_grows_again() -> None:
    ledger = CellLedger(20)
    ledger.extend(0, 6)
    ledger.fork(0, 1, 6)
    ledger.truncate(0, 2)
    ledger.extend(0, 4)
    assert ledger.used_count == 10
    ledger.release(1)
    assert ledger.used_count == 6


def test_cells_of_some_sequences_only_exclude_what_others_share() -> None:
    ledger = CellLedger(20)
    ledger.extend(0, 6)
    ledger.fork(0, 1, 4)
    ledger.extend(1, 3)
    assert ledger.exclusive_count({0}) == 2
    assert ledger.exclusive_count({1}) == 3
    assert ledger.exclusive_count({0, 1}) == 9


def test_taking_more_than_is_free_is_refused() -> None:
    ledger = CellLedger(4)
    with pytest.raises(ValueError, match="5 cells wanted, 4 free"):
        ledger.extend(0, 5)


def test_no_cell_leaks_over_random_operations() -> None:
    chance = random.Random(7)
    ledger = CellLedger(200)
    alive: dict[int, int] = {}
    for number in range(2000):
        action = chance.choice(["open", "fork", "extend", "truncate", "release"])
        if action == "open":
            count = min(chance.randint(1, 20), ledger.free_count)
            ledger.extend(number, count)
            alive[number] = count
        elif not alive:
            continue
        else:
            one = chance.choice(list(alive))
            if action == "fork":
                alive[number] = chance.randint(0, alive[one])
                ledger.fork(one, number, alive[number])
            elif action == "extend":
                count = min(chance.randint(1, 5), ledger.free_count)
                ledger.extend(one, count)
                alive[one] += count
            elif action == "truncate":
                alive[one] = chance.randint(0, alive[one])
                ledger.truncate(one, alive[one])
            else:
                ledger.release(one)
                del alive[one]
        assert all(ledger.length(key) == length for key, length in alive.items())
        assert ledger.used_count + ledger.free_count == 200
    for key in alive:
        ledger.release(key)
    assert ledger.used_count == 0


def test_what_a_sequence_shares_ends_at_the_first_cell_that_only_it_holds() -> None:
    ledger = CellLedger(20)
    ledger.extend(0, 6)
    assert ledger.shared_length(0) == 0
    ledger.fork(0, 1, 4)
    assert (ledger.shared_length(0), ledger.shared_length(1), ledger.shared_length(2)) == (4, 4, 0)
    ledger.extend(1, 1)
    assert ledger.shared_length(1) == 4
