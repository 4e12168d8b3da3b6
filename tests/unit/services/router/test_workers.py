import asyncio
from typing import Any

import pytest

from localcode.cache.v1 import cache_pb2
from services.router.models import Model
from services.router.trip import Trip
from services.router.worker import RoutedWorker
from services.router.workers import UNLISTED_SECONDS, is_gone
from services.shared.grpc_runtime import open_channel
from tests.unit.services.router.conftest import until

REGISTRATION = cache_pb2.Worker(
    worker_id="a",
    address="127.0.0.1:1",
    models=[cache_pb2.WorkerModel(name="coder", slot_count=4)],
    load=cache_pb2.WorkerLoad(running_count=2, waiting_count=1),
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_listed_worker_that_answers_takes_requests(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    assert [worker.worker_id for worker in rig.directory.live("coder")] == ["a"]
    assert rig.directory.live("other") == []
    assert rig.directory.live_models() == {"coder"}
    assert rig.directory.seen_models == (Model("coder", (), 4096),)


async def test_a_draining_worker_takes_no_requests(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    rig.cache.workers[0].draining = True
    await until(lambda: rig.directory.live("coder") == [])
    await asyncio.sleep(0.15)
    assert rig.directory.live("coder") == []


async def test_a_lone_worker_that_is_well_is_asked_for_seldom(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    monkeypatch.setattr("services.router.workers.POLL_SECONDS", 0.2)
    await asyncio.sleep(0.25)  # polls at the old pace are over
    before = rig.cache.list_count
    await asyncio.sleep(0.7)
    assert rig.cache.list_count <= before + 1


@pytest.mark.parametrize("waits_in_line", [True, False])
async def test_workers_are_asked_for_often_while_anything_waits(
    rig: Any, monkeypatch: pytest.MonkeyPatch, *, waits_in_line: bool
) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    rig.directory.is_awaited = lambda: waits_in_line
    waiter = asyncio.create_task(rig.directory.wait_for_change(0.0 if waits_in_line else 60.0))
    await asyncio.sleep(0.3)  # a pause that began before is over
    monkeypatch.setattr("services.router.workers._SETTLED_POLLS", 1000)  # else: not within the time that `until` has
    before = rig.cache.list_count
    await until(lambda: rig.cache.list_count > before + 3)
    waiter.cancel()


async def test_a_lost_worker_is_out_until_its_health_service_answers(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    rig.directory.mark_lost(rig.directory.workers[0])
    assert rig.directory.live("coder") == []
    await rig.until_healthy("a")


async def test_a_worker_that_ended_stays_out(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    await rig.stop_worker("a")
    rig.directory.mark_lost(rig.directory.workers[0])
    await asyncio.sleep(0.3)
    assert rig.directory.live("coder") == []


async def test_workers_stay_while_the_cache_service_is_away(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    rig.cache.is_away = True
    await asyncio.sleep(0.2)
    assert not rig.directory.is_cache_reachable
    assert len(rig.directory.live("coder")) == 1


async def test_a_healthy_worker_survives_a_cache_service_that_forgot_all(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    listed, rig.cache.workers = rig.cache.workers, []
    await asyncio.sleep(0.2)
    assert len(rig.directory.live("coder")) == 1
    rig.cache.workers = listed
    await asyncio.sleep(0.15)
    assert rig.directory.workers[0].unlisted_since is None


async def test_a_worker_that_left_is_forgotten_and_its_channel_closed(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    channel = rig.directory.workers[0].channel
    rig.unlist("a")
    await rig.stop_worker("a")
    rig.directory.mark_lost(rig.directory.workers[0])
    await asyncio.sleep(0.3)
    assert rig.directory.workers == []
    assert channel.get_state().name == "SHUTDOWN"


async def test_the_channel_of_a_forgotten_worker_is_closed_only_when_its_last_request_ended(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    worker = rig.directory.workers[0]
    worker.open_request(Trip("coder"))
    rig.directory.mark_lost(worker)
    rig.directory.reconcile([])
    await asyncio.sleep(0.05)
    assert worker.channel.get_state().name != "SHUTDOWN"
    worker.close_request(Trip("coder"))
    await asyncio.sleep(0.05)
    assert worker.channel.get_state().name == "SHUTDOWN"


async def test_a_new_process_of_the_same_model_is_taken_at_once(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    await rig.stop_worker("a")
    rig.unlist("a")
    rig.directory.mark_lost(rig.directory.workers[0])
    await rig.start_worker("b")
    await rig.until_healthy("b")
    assert [worker.worker_id for worker in rig.directory.live("coder")] == ["b"]


async def test_a_model_once_seen_stays_known(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    await rig.stop_worker("a")
    rig.unlist("a")
    rig.directory.mark_lost(rig.directory.workers[0])
    await asyncio.sleep(0.2)
    assert rig.directory.workers == []
    assert [model.name for model in rig.directory.seen_models] == ["coder"]


async def test_an_unlisted_worker_is_gone_when_it_does_not_answer_or_after_a_time() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        worker = RoutedWorker(REGISTRATION, channel)
        worker.unlisted_since = 100.0
        assert is_gone(worker, frozenset(), 100.0)
        worker.is_healthy = True
        assert not is_gone(worker, frozenset(), 100.0 + UNLISTED_SECONDS)
        assert is_gone(worker, frozenset(), 100.1 + UNLISTED_SECONDS)


async def test_an_unlisted_worker_is_gone_when_another_has_its_address() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        worker = RoutedWorker(REGISTRATION, channel)
        worker.is_healthy, worker.unlisted_since = True, 100.0
        assert is_gone(worker, frozenset({"127.0.0.1:1"}), 100.0)


async def test_a_candidate_counts_requests_of_others_and_ours_once() -> None:
    clock = Clock()
    async with open_channel("127.0.0.1:1") as channel:
        worker = RoutedWorker(REGISTRATION, channel, clock=clock)
        trip = Trip("coder")
        assert worker.candidate(trip).load == 3
        worker.open_request(trip)
        assert worker.candidate(trip).load == 3
        worker.close_request(trip)
        assert worker.candidate(trip).load == 2  # the report still holds the one that has just ended
        clock.now += 10
        assert worker.candidate(trip).load == 3
        assert worker.candidate(trip).slot_count == 4


async def test_one_late_health_check_takes_no_worker_out(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.router.health.SURE_CHECK_SECONDS", 0.05)
    await rig.start_worker("a")
    await rig.until_healthy("a")
    answers = iter([False, True, False, False, False])

    async def late(*_: Any, **__: Any) -> bool:
        return next(answers, False)

    seen = []
    monkeypatch.setattr("services.router.health.is_serving", late)
    for _ in range(40):
        worker = rig.directory.workers[0]
        seen.append((worker.failed_check_count, worker.is_healthy))
        await asyncio.sleep(0.01)
    assert (1, True) in seen
    assert (2, False) in seen
    assert (1, False) not in seen


async def test_a_worker_knows_the_conversations_that_it_was_sent() -> None:
    hashes = [bytes([number]) * 32 for number in range(4)]
    async with open_channel("127.0.0.1:1") as channel:
        worker = RoutedWorker(REGISTRATION, channel)
        worker.open_request(Trip("coder", hashes=hashes[:2], token_counts=[5000, 5100]))
        longer = Trip("coder", hashes=hashes, token_counts=[5000, 5100, 5600, 5700])
        assert worker.cached_token_count(longer) == 5100
        assert worker.cached_token_count(Trip("coder", hashes=hashes[3:], token_counts=[10])) == 0
        longer.matched_elsewhere = {"a": 3, "b": 4}
        assert worker.cached_token_count(longer) == 5600


async def test_prompts_that_are_not_computed_yet_are_a_workers_backlog() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        worker = RoutedWorker(REGISTRATION, channel)
        trip = Trip("coder", request_id="r", hashes=[b"x"], token_counts=[700])
        worker.open_request(trip)
        assert worker.candidate(Trip("coder")).backlog_token_count == 700
        worker.note_prefilled(trip)
        assert worker.candidate(Trip("coder")).backlog_token_count == 0


async def test_a_subagent_finds_its_siblings() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        worker = RoutedWorker(REGISTRATION, channel)
        worker.open_request(Trip("coder", group="parent"))
        assert worker.candidate(Trip("coder", group="parent")).has_sibling
        assert not worker.candidate(Trip("coder", group="other")).has_sibling
        assert not worker.candidate(Trip("coder")).has_sibling
