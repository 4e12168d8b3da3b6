import random
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from bench.day_plan import lanes, mixed, parts
from bench.traces import Recorded

sequences = st.lists(st.lists(st.integers(), max_size=8), max_size=6)


def session(name: str, *lengths: int) -> list[Recorded]:
    return [Recorded(name, "main", {"text": "x" * length}, {}) for length in lengths]


@given(sequences, st.integers())
def test_what_is_mixed_keeps_the_order_of_each_sequence(values: list[list[int]], seed: int) -> None:
    marked = [[(index, place, value) for place, value in enumerate(one)] for index, one in enumerate(values)]
    order = mixed(marked, random.Random(seed))
    assert sorted(order) == sorted(chain(*marked))
    assert all([item for item in order if item[0] == index] == one for index, one in enumerate(marked))


@given(st.lists(st.integers()), st.integers(1, 9))
def test_parts_put_together_are_the_whole_and_nearly_equal(items: list[int], count: int) -> None:
    pieces = parts(items, count)
    assert list(chain(*pieces)) == items
    assert len(pieces) == count
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_lanes_share_the_work_and_no_session_is_split() -> None:
    sessions = [session("a", 900, 1000), session("b", 600), session("c", 500), session("d", 700)]
    first, second = lanes(sessions, 2, seed=1)
    assert {one.scenario for one in first} == {"a"}
    assert {one.scenario for one in second} == {"b", "c", "d"}


def test_a_day_is_the_same_for_the_same_seed() -> None:
    sessions = [session(name, *range(6)) for name in "abcd"]
    assert lanes(sessions, 2, seed=3) == lanes(sessions, 2, seed=3) != lanes(sessions, 2, seed=4)
