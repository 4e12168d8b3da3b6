import threading
import time
from itertools import pairwise
from pathlib import Path

from services.worker.compute_lock import FileComputeLock, NoComputeLock


def test_only_one_computes_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0

    def compute() -> None:
        nonlocal inside, most
        lock = FileComputeLock(tmp_path / "lock")
        for _ in range(20):
            with lock.held():
                inside += 1
                most = max(most, inside)
                time.sleep(0.0005)
                inside -= 1
        lock.close()

    threads = [threading.Thread(target=compute) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_turns_alternate_between_two_that_always_want_to_compute(tmp_path: Path) -> None:
    turns: list[str] = []
    ready = threading.Barrier(2)

    def compute(name: str) -> None:
        lock = FileComputeLock(tmp_path / "lock")
        ready.wait()
        for _ in range(30):
            with lock.held():
                turns.append(name)
                time.sleep(0.003)
        lock.close()

    threads = [threading.Thread(target=compute, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    switches = sum(1 for before, after in pairwise(turns) if before != after)
    assert switches > 40  # of 59 possible ones; a lock that its holder takes again at once has a handful


def test_an_uncontended_lock_says_so(tmp_path: Path) -> None:
    lock = FileComputeLock(tmp_path / "lock")
    with lock.held():
        pass
    lock.close()
    assert not lock.is_contended
    assert not NoComputeLock().is_contended


def test_what_a_step_waits_for_others_is_counted(tmp_path: Path) -> None:
    first, second = FileComputeLock(tmp_path / "lock"), FileComputeLock(tmp_path / "lock")

    begins = threading.Event()

    def compute() -> None:
        begins.set()
        with second.held():
            pass

    waiting = threading.Thread(target=compute)
    with first.held():
        waiting.start()
        begins.wait()
        time.sleep(0.5)
    waiting.join()
    longest = second.waits.longest_seconds
    assert second.waits.seconds == longest > 0.1 > first.waits.seconds
    compute()
    assert longest <= second.waits.seconds < 2 * longest
    first.close()
    second.close()


def test_a_claim_is_seen_by_the_others_until_it_is_given_up(tmp_path: Path) -> None:
    urgent, title, other = (FileComputeLock(tmp_path / "lock") for _ in range(3))
    assert not title.is_claimed_by_others
    urgent.claim(is_urgent=True)
    other.claim(is_urgent=True)
    urgent.claim(is_urgent=False)
    assert title.is_claimed_by_others
    other.claim(is_urgent=False)
    assert not title.is_claimed_by_others
    for lock in (urgent, title, other):
        lock.close()


def test_a_claim_ends_with_its_worker(tmp_path: Path) -> None:
    urgent, title = FileComputeLock(tmp_path / "lock"), FileComputeLock(tmp_path / "lock")
    urgent.claim(is_urgent=True)
    assert title.is_claimed_by_others
    urgent.close()
    assert not title.is_claimed_by_others
    title.close()
