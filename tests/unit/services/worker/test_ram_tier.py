import random

import numpy as np

from services.worker.blocks import Block, as_tokens
from services.worker.ram_tier import RamTier


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def block(name: str, parent: str = "root", *, size: int = 10, seconds: float = 1.0, tokens: int = 256) -> Block:
    return Block(
        name.encode(), parent.encode(), as_tokens([hash(name) % 1000] * tokens), np.zeros(size, np.uint8), seconds
    )


def test_the_budget_is_kept_and_what_was_unused_longest_goes_first() -> None:
    clock = Clock()
    tier = RamTier(30, clock=clock)
    for number, name in enumerate("abcd"):
        clock.now = float(number)
        tier.put(block(name))
    assert tier.used_bytes == 30
    assert [tier.contains(name.encode()) for name in "abcd"] == [False, True, True, True]


def test_what_costs_more_to_compute_stays() -> None:
    tier = RamTier(20, clock=Clock())
    tier.put(block("dear", seconds=9.0))
    tier.put(block("cheap"))
    tier.put(block("new"))
    assert tier.contains(b"dear")
    assert not tier.contains(b"cheap")


def test_what_was_used_stays() -> None:
    tier = RamTier(20, clock=Clock())
    tier.put(block("used"))
    tier.put(block("unused"))
    assert tier.get(b"used")
    tier.put(block("new"))
    assert tier.contains(b"used")


def test_what_is_new_pushes_out_what_was_used_often_long_ago() -> None:
    clock = Clock()
    tier = RamTier(20, clock=clock)
    tier.put(block("ended"))
    for _ in range(8):
        assert tier.get(b"ended")
    clock.now = 3600.0
    tier.put(block("new"))
    tier.put(block("newer"))
    assert [tier.contains(name) for name in (b"ended", b"new", b"newer")] == [False, True, True]


def test_a_parent_outlives_its_children() -> None:
    clock = Clock()
    tier = RamTier(30, clock=clock)
    tier.put(block("parent"))
    tier.put(block("child", "parent"))
    clock.now = 100.0
    tier.put(block("other"))
    tier.put(block("another"))
    assert tier.contains(b"parent")
    assert not tier.contains(b"child")


def test_a_block_never_pushes_out_its_own_parent() -> None:
    tier = RamTier(10, clock=Clock())
    tier.put(block("parent"))
    tier.put(block("child", "parent"))
    assert tier.contains(b"parent")
    assert not tier.contains(b"child")


def test_a_block_larger_than_the_budget_is_not_kept() -> None:
    tier = RamTier(5)
    tier.put(block("large"))
    assert (len(tier), tier.used_bytes) == (0, 0)


def test_a_longer_block_replaces_the_tail_that_it_continues_and_inherits_its_uses() -> None:
    clock = Clock()
    tier = RamTier(100, clock=clock)
    tail = Block(b"tail", b"root", as_tokens([1, 2]), np.zeros(4, np.uint8), 1.0)
    tier.put(tail)
    tier.put(Block(b"full", b"root", as_tokens([1, 2, 3]), np.zeros(6, np.uint8), 1.0))
    tier.put(Block(b"else", b"root", as_tokens([1, 3, 3]), np.zeros(6, np.uint8), 1.0))
    assert not tier.contains(b"tail")
    assert {name for name, _ in tier.children(b"root")} == {b"full", b"else"}


def test_bytes_and_children_stay_right_over_random_use() -> None:
    chance, clock = random.Random(5), Clock()
    tier = RamTier(200, clock=clock)
    names = ["root"]
    for number in range(1500):
        clock.now = float(number)
        parent = chance.choice(names[-40:])
        name = f"n{number}"
        tier.put(block(name, parent, size=chance.randint(1, 30), tokens=chance.choice([3, 256])))
        names.append(name)
        tier.get(chance.choice(names).encode())
        present = [one for one in names if tier.contains(one.encode())]
        assert tier.used_bytes <= 200
        assert len(present) == len(tier)
    for name in names:
        tier.discard(name.encode())
    assert (len(tier), tier.used_bytes, list(tier.children(b"root"))) == (0, 0, [])


def test_what_will_be_used_more_stays_and_what_never_returns_goes_first() -> None:
    tier = RamTier(20, clock=Clock())
    tier.expected_uses = lambda name: {b"system": 4.0, b"title": 0.0}.get(name, 1.0)
    for name in ("system", "title", "main", "other"):
        tier.put(block(name))
    assert [tier.contains(name) for name in (b"system", b"title", b"other")] == [True, False, True]


def test_a_block_that_nobody_waits_for_takes_no_place_of_one_worth_as_much() -> None:
    tier = RamTier(20, clock=Clock())
    assert tier.offer(block("a"))
    assert tier.offer(block("cheap", seconds=0.5))
    assert tier.offer(block("b"))
    assert not tier.contains(b"cheap")
    assert not tier.offer(block("c"))
    assert [tier.contains(name) for name in (b"a", b"b", b"c")] == [True, True, False]


def test_peeking_is_no_use() -> None:
    tier = RamTier(20, clock=Clock())
    tier.put(block("peeked"))
    tier.put(block("used"))
    assert tier.peek(b"peeked")
    assert tier.peek(b"unknown") is None
    assert tier.get(b"used")
    tier.put(block("new"))
    assert not tier.contains(b"peeked")
