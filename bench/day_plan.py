"""A day of sessions: who asks what, in which order, and between which restarts. Pure."""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from bench.traces import Recorded

Item = TypeVar("Item")


def lanes(sessions: Sequence[Sequence[Recorded]], count: int, *, seed: int) -> list[list[Recorded]]:
    """Deals sessions to lanes that run at once, about as much work to each, and mixes those within a lane."""
    dealt: list[list[Sequence[Recorded]]] = [[] for _ in range(count)]
    for session in sorted(sessions, key=_work, reverse=True):
        min(dealt, key=lambda lane: sum(map(_work, lane))).append(session)
    choose = random.Random(seed)
    return [mixed(lane, choose) for lane in dealt]


def mixed(sequences: Sequence[Sequence[Item]], choose: random.Random) -> list[Item]:
    """All items in a random order that keeps the order within each sequence."""
    turns = [index for index, sequence in enumerate(sequences) for _ in sequence]
    choose.shuffle(turns)
    rest = [iter(sequence) for sequence in sequences]
    return [next(rest[index]) for index in turns]


def parts(items: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """Cuts a sequence into so many pieces of nearly equal length."""
    bounds = [len(items) * index // count for index in range(count + 1)]
    return [items[start:end] for start, end in pairwise(bounds)]


def _work(session: Sequence[Recorded]) -> int:
    return sum(len(str(recorded.body)) for recorded in session)
