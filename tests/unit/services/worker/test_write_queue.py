import numpy as np

from services.worker.blocks import Block, as_tokens
from services.worker.write_queue import WriteQueue


def block(name: str, parent: str = "root", *, size: int = 10) -> Block:
    return Block(name.encode(), parent.encode(), as_tokens([1] * 256), np.zeros(size, np.uint8), 1.0)


def queue_by(urgencies: dict[str, int], *, most_bytes: int = 1000) -> WriteQueue:
    return WriteQueue(most_bytes, lambda block: urgencies.get(block.hash.decode(), 0))


def drained(queue: WriteQueue) -> list[str]:
    names = []
    while found := queue.next():
        queue.remove(found.hash)
        names.append(found.hash.decode())
    return names


def test_the_most_urgent_comes_first_and_of_equals_the_one_that_waits_longest() -> None:
    queue = queue_by({"b": 2})
    for name in "acb":
        queue.add(block(name))
    assert drained(queue) == ["b", "a", "c"]


def test_no_block_comes_before_the_one_that_it_follows() -> None:
    queue = queue_by({"third": 2})
    for name, parent in (("third", "second"), ("second", "first"), ("first", "root")):
        queue.add(block(name, parent))
    assert drained(queue) == ["first", "second", "third"]


def test_the_order_follows_what_is_known_when_it_is_asked_for() -> None:
    urgencies = {"a": 1}
    queue = queue_by(urgencies)
    queue.add(block("a"))
    queue.add(block("b"))
    urgencies["b"] = 2
    assert drained(queue) == ["b", "a"]


def test_the_least_urgent_go_where_too_much_waits_but_none_that_another_follows() -> None:
    queue = queue_by({"child": 5, "other": 1}, most_bytes=30)
    for one in (block("parent"), block("child", "parent"), block("other")):
        assert queue.add(one) == []
    assert [one.hash for one in queue.add(block("new"))] == [b"new"]
    assert drained(queue) == ["parent", "child", "other"]


def test_a_block_waits_once() -> None:
    queue = queue_by({}, most_bytes=15)
    assert queue.add(block("a")) == []
    assert queue.add(block("a")) == []
    assert len(queue) == 1
