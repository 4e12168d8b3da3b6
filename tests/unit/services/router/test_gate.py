import asyncio
from typing import Any

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.router.gate import Gate
from services.router.trip import Trip
from services.router.worker import RoutedWorker
from services.shared.errors import Overloaded


class Line:
    """Requests that wait at a gate, as tasks."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.passed: list[str] = []

    def join(self, name: str, **fields: Any) -> "asyncio.Task[RoutedWorker]":
        return asyncio.create_task(self._wait(Trip("coder", request_id=name, **fields)))

    async def _wait(self, trip: Trip) -> RoutedWorker:
        with self.gate.waiting(trip) as ticket:
            await asyncio.wait({ticket.passed})
            worker = ticket.passed.result()
        self.passed.append(trip.request_id)
        return worker


@pytest.fixture
async def line(rig: Any) -> Line:
    await rig.start_worker("a", slots=1)
    await rig.until_healthy("a")
    return Line(rig.gate)


async def let_run() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_free_slot_is_given_at_once_and_the_next_one_when_it_is_released(line: Line) -> None:
    worker = await line.join("first")
    line.join("second")
    await let_run()
    assert line.passed == ["first"]
    line.gate.release(Trip("coder", request_id="first"), worker)
    await let_run()
    assert line.passed == ["first", "second"]


async def test_those_that_wait_are_let_through_by_class_and_share(line: Line) -> None:
    worker = await line.join("first")
    line.gate.shares.charge("greedy", 9000, line.gate._clock())
    line.join("title", request_class=pb.REQUEST_CLASS_TITLE)
    line.join("greedy", key_id="greedy", request_class=pb.REQUEST_CLASS_MAIN)
    line.join("modest", key_id="modest", request_class=pb.REQUEST_CLASS_MAIN)
    for _ in range(3):
        await let_run()
        line.gate.release(Trip("coder"), worker)
    await let_run()
    assert line.passed == ["first", "modest", "greedy", "title"]


async def test_nobody_waits_for_a_slot_that_a_title_holds_but_other_titles(line: Line) -> None:
    title = {"request_class": pb.REQUEST_CLASS_TITLE}
    worker = await line.join("title", **title)
    second = line.join("second title", **title)
    line.join("main", request_class=pb.REQUEST_CLASS_MAIN)
    waiting = line.join("second main", request_class=pb.REQUEST_CLASS_MAIN)
    await let_run()
    assert line.passed == ["title", "main"]
    line.gate.release(Trip("coder", request_id="main", request_class=pb.REQUEST_CLASS_MAIN), worker)
    await let_run()
    assert line.passed == ["title", "main", "second main"]
    line.gate.release(Trip("coder", request_id="title", **title), worker)
    await let_run()
    assert not second.done()
    line.gate.release(Trip("coder", request_id="second main", request_class=pb.REQUEST_CLASS_MAIN), worker)
    assert (await second, waiting.done()) == (worker, True)


async def test_a_request_that_leaves_the_line_costs_nothing(line: Line, rig: Any) -> None:
    worker = await line.join("first")
    leaving = line.join("leaving")
    staying = line.join("staying")
    await let_run()
    leaving.cancel()
    await let_run()
    line.gate.release(Trip("coder"), worker)
    await staying
    assert (line.passed, worker.open_count) == (["first", "staying"], 1)
    assert line.gate.waiting_counts() == {}


async def test_a_slot_that_was_given_to_a_request_that_leaves_is_given_on(line: Line) -> None:
    worker = await line.join("first")
    leaving, staying = line.join("leaving"), line.join("staying")
    await let_run()
    line.gate.release(Trip("coder"), worker)  # gives the slot to the one that leaves before it takes it
    leaving.cancel()
    assert await staying is worker
    assert worker.open_count == 1


async def test_a_full_queue_says_when_to_come_back(line: Line) -> None:
    await line.join("first")
    for number in range(8):
        line.join(f"waiting {number}")
    await let_run()
    with pytest.raises(Overloaded) as refusal:
        await line.join("one too many")
    assert refusal.value.retry_after_seconds
    assert refusal.value.retry_after_seconds >= 1


async def test_a_greedy_keys_place_goes_to_another_key(line: Line) -> None:
    await line.join("first")
    greedy = [line.join(f"greedy {number}", key_id="greedy") for number in range(8)]
    await let_run()
    line.join("modest", key_id="modest")
    await let_run()
    assert [task.done() for task in greedy] == [False] * 7 + [True]
    assert isinstance(greedy[-1].exception(), Overloaded)


async def test_positions_count_those_that_go_before(line: Line) -> None:
    await line.join("first")
    with line.gate.waiting(Trip("coder")) as one, line.gate.waiting(Trip("coder")) as two:
        assert (line.gate.position(one), line.gate.position(two)) == (0, 1)


async def test_a_worker_that_appears_takes_those_that_wait(rig: Any) -> None:
    line = Line(rig.gate)
    waiting = line.join("early")
    await asyncio.sleep(0.05)
    await rig.start_worker("a")
    assert (await asyncio.wait_for(waiting, 5)).worker_id == "a"


async def test_requests_of_one_key_that_has_used_tokens_go_in_the_order_they_came(line: Line) -> None:
    worker = await line.join("first")
    line.gate.shares.charge("k", 9000, line.gate._clock())
    for name in ("second", "third", "fourth"):
        line.join(name, key_id="k")
        await let_run()
    for _ in range(3):
        line.gate.release(Trip("coder"), worker)
        await let_run()
    assert line.passed == ["first", "second", "third", "fourth"]
