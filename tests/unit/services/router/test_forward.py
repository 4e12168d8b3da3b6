import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from localcode.cache.v1 import cache_pb2
from localcode.inference.v1 import inference_pb2 as pb
from services.router.trip import Trip
from services.shared.errors import BackendFailed, InvalidRequest, NoWorker, Overloaded, WorkerLost, error_info
from tests.fakes.inference import admitted, content, finish, spoken

HASHES = [bytes([number]) * 32 for number in range(4)]


async def collect(rig: Any, request: pb.GenerateRequest, trip: Trip | None = None) -> list[pb.GenerateResponse]:
    events: list[pb.GenerateResponse] = []
    async for event in rig.forwarder.generate(trip or Trip("coder"), request):
        events.append(event)  # noqa: PERF401  what came before an error counts too
    return events


def conversation() -> Trip:
    return Trip("coder", hashes=HASHES, token_counts=[5000, 5100, 5200, 5300], is_continuation=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def kinds(events: list[pb.GenerateResponse]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events]


def count(rig: Any, name: str, **labels: str) -> float:
    return rig.registry.get_sample_value(name, labels) or 0.0


def crash(*events: pb.GenerateResponse) -> Any:
    """Ends a stream as a dying process does: without any error details."""

    def script(_request: pb.GenerateRequest) -> list[Any]:
        return [*events]

    return script


async def test_an_answer_is_passed_on_as_it_is(rig: Any, request_: pb.GenerateRequest) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    assert await collect(rig, request_) == spoken("Hello", " world")


async def test_requests_in_a_row_are_spread_over_idle_workers(rig: Any, request_: pb.GenerateRequest) -> None:
    services = [await rig.start_worker("a"), await rig.start_worker("b")]
    await rig.until_healthy("a", "b")
    for _ in range(6):
        await collect(rig, request_)
    assert [len(service.requests) for service in services] == [3, 3]


async def test_a_busy_worker_is_avoided(rig: Any, request_: pb.GenerateRequest) -> None:
    services = {"a": await rig.start_worker("a"), "b": await rig.start_worker("b")}
    await rig.until_healthy("a", "b")
    rig.directory.workers[0].open_request(Trip("coder"))
    for _ in range(3):
        await collect(rig, request_)
    assert len(services["b"].requests) == 3


async def test_a_continued_conversation_goes_to_the_worker_that_knows_it(
    rig: Any, request_: pb.GenerateRequest
) -> None:
    services = [await rig.start_worker("a"), await rig.start_worker("b")]
    await rig.until_healthy("a", "b")
    rig.cache.match = cache_pb2.LookupLineageResponse(matched_count=2, worker_ids=["b"])
    for _ in range(3):
        await collect(rig, request_, conversation())
    assert [len(service.requests) for service in services] == [0, 3]
    assert list(rig.cache.lookups[0].hashes) == HASHES


async def test_a_shared_system_prompt_that_costs_nothing_to_compute_binds_nobody(
    rig: Any, request_: pb.GenerateRequest
) -> None:
    services = [await rig.start_worker("a"), await rig.start_worker("b")]
    await rig.until_healthy("a", "b")
    rig.cache.match = cache_pb2.LookupLineageResponse(matched_count=1, worker_ids=["b"])
    for number in range(2):
        hashes = [HASHES[0], bytes([100 + number]) * 32]
        await collect(rig, request_, Trip("coder", hashes=hashes, token_counts=[4, 9], is_continuation=True))
    assert [len(service.requests) for service in services] == [1, 1]


async def test_a_new_conversation_asks_nobody(rig: Any, request_: pb.GenerateRequest) -> None:
    for worker_id in ("a", "b"):
        await rig.start_worker(worker_id)
    await rig.until_healthy("a", "b")
    await collect(rig, request_, Trip("coder", hashes=HASHES))
    assert rig.cache.lookups == []


async def test_a_finished_answer_is_noted(rig: Any, request_: pb.GenerateRequest) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    await collect(rig, request_, Trip("coder", hashes=HASHES))
    await asyncio.sleep(0)
    assert rig.cache.records == [cache_pb2.RecordLineageRequest(worker_id="a", hashes=HASHES, prompt_token_count=10)]


async def test_a_cache_service_that_is_away_does_not_hurt(rig: Any, request_: pb.GenerateRequest) -> None:
    for worker_id in ("a", "b"):
        await rig.start_worker(worker_id)
    await rig.until_healthy("a", "b")
    rig.cache.is_away = True
    trip = conversation()
    assert kinds(await collect(rig, request_, trip))[-1] == "finish"


async def test_a_worker_that_is_gone_is_replaced_unseen(rig: Any, request_: pb.GenerateRequest) -> None:
    await rig.start_worker("a")
    other = await rig.start_worker("b")
    await rig.until_healthy("a", "b")
    await rig.stop_worker("a")
    assert kinds(await collect(rig, request_)) == ["admitted", "delta", "delta", "finish"]
    assert len(other.requests) == 1
    assert count(rig, "localcode_router_retries_total", model="coder") == 1


async def test_a_stream_without_finish_is_tried_elsewhere_and_admitted_once(
    rig: Any, request_: pb.GenerateRequest
) -> None:
    broken = await rig.start_worker("a")
    await rig.start_worker("b")
    broken.script = crash(admitted())
    await rig.until_healthy("a", "b")
    assert kinds(await collect(rig, request_)) == ["admitted", "delta", "delta", "finish"]
    assert len(broken.requests) == 1


async def test_an_answer_that_breaks_off_is_continued_by_another_worker(rig: Any, request_: pb.GenerateRequest) -> None:
    broken = await rig.start_worker("a")
    other = await rig.start_worker("b")
    broken.script = crash(admitted(), content("Hel", token_ids=[1]), content("lo", token_ids=[2]))
    other.script = lambda _: [admitted(), content("Hello", token_ids=[1, 2]), content("!", token_ids=[3]), finish()]
    await rig.until_healthy("a", "b")
    events = await collect(rig, request_)
    assert kinds(events) == ["admitted", "delta", "delta", "delta", "finish"]
    assert "".join(event.delta.content for event in events) == "Hello!"
    assert list(other.requests[0].resume_tokens) == [1, 2]
    assert count(rig, "localcode_router_migrations_total", model="coder") == 1


async def test_an_answer_that_breaks_off_waits_for_a_worker_that_restarts(
    rig: Any, request_: pb.GenerateRequest
) -> None:
    broken = await rig.start_worker("a")
    broken.script = crash(admitted(), content("x", token_ids=[1]))
    await rig.until_healthy("a")
    answer = asyncio.create_task(collect(rig, request_))
    await until(lambda: broken.requests)
    broken.script = lambda _: [admitted(), content("xy", token_ids=[1, 2]), finish()]
    assert "".join(event.delta.content for event in await answer) == "xy"


async def test_an_answer_that_nobody_continues_ends_in_an_error(rig: Any, request_: pb.GenerateRequest) -> None:
    rig.forwarder = rig.make_forwarder(resume_wait_seconds=0.2)
    broken = await rig.start_worker("a")
    broken.script = crash(admitted(), content("x", token_ids=[1]))
    await rig.until_healthy("a")
    answer = asyncio.create_task(collect(rig, request_))
    await until(lambda: broken.requests)
    rig.unlist("a")
    await rig.stop_worker("a")
    with pytest.raises(WorkerLost):
        await answer


async def test_an_answer_that_has_begun_waits_for_a_place_at_a_full_worker(
    rig: Any, request_: pb.GenerateRequest
) -> None:
    broken = await rig.start_worker("a")
    full = await rig.start_worker("b")
    broken.script = crash(admitted(), content("x", token_ids=[1]))
    full.script = lambda _: (
        [Overloaded("full")] if len(full.requests) == 1 else [admitted(), content("xy", token_ids=[1, 2]), finish()]
    )
    await rig.until_healthy("a", "b")
    answer = asyncio.create_task(collect(rig, request_))
    await until(lambda: broken.requests)
    rig.unlist("a")
    await rig.stop_worker("a")
    assert "".join(event.delta.content for event in await answer) == "xy"
    assert len(full.requests) == 2


async def test_an_answer_of_a_remote_model_that_breaks_off_is_an_error(rig: Any, request_: pb.GenerateRequest) -> None:
    broken = await rig.start_worker("a")
    other = await rig.start_worker("b")
    broken.script = crash(admitted(), content("x"))
    await rig.until_healthy("a", "b")
    with pytest.raises(WorkerLost):
        await collect(rig, request_)
    assert other.requests == []


async def test_a_request_that_kills_workers_kills_three_at_most(rig: Any, request_: pb.GenerateRequest) -> None:
    services = [await rig.start_worker(worker_id) for worker_id in "abcde"]
    for service in services:
        service.script = crash(admitted())
    await rig.until_healthy(*"abcde")
    with pytest.raises(WorkerLost):
        await collect(rig, request_)
    assert sum(len(service.requests) for service in services) == 3


async def test_a_full_worker_is_passed_by(rig: Any, request_: pb.GenerateRequest) -> None:
    full = await rig.start_worker("a")
    full.script = lambda _request: [Overloaded("full")]
    await rig.start_worker("b")
    await rig.until_healthy("a", "b")
    assert kinds(await collect(rig, request_))[-1] == "finish"
    assert len(full.requests) == 1


async def test_when_all_workers_are_full_the_client_is_told_so_at_once(rig: Any, request_: pb.GenerateRequest) -> None:
    for worker_id in ("a", "b"):
        (await rig.start_worker(worker_id)).script = lambda _request: [Overloaded("full", retry_after_seconds=7)]
    await rig.until_healthy("a", "b")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await collect(rig, request_)
    assert refusal.value.code() is StatusCode.RESOURCE_EXHAUSTED
    assert error_info(refusal.value).metadata["retry_after_seconds"] == "7.000"
    assert all(worker.is_healthy for worker in rig.directory.workers)


async def test_an_error_about_the_request_is_not_tried_again(rig: Any, request_: pb.GenerateRequest) -> None:
    services = [await rig.start_worker("a"), await rig.start_worker("b")]
    for service in services:
        service.script = lambda _request: [InvalidRequest("bad", param="messages")]
    await rig.until_healthy("a", "b")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await collect(rig, request_)
    assert error_info(refusal.value).metadata["param"] == "messages"
    assert sum(len(service.requests) for service in services) == 1


async def test_a_workers_own_error_behind_a_delta_is_passed_on(rig: Any, request_: pb.GenerateRequest) -> None:
    broken = await rig.start_worker("a")
    broken.script = lambda _request: [admitted(), content("x"), NoWorker("The remote went away.")]
    await rig.until_healthy("a")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await collect(rig, request_)
    assert failure.value.details() == "The remote went away."


async def test_what_comes_behind_the_finish_is_dropped(rig: Any, request_: pb.GenerateRequest) -> None:
    service = await rig.start_worker("a")
    service.script = lambda _request: [admitted(), finish(), content("x"), finish()]
    await rig.until_healthy("a")
    assert kinds(await collect(rig, request_)) == ["admitted", "finish"]


async def test_an_error_behind_the_finish_does_not_matter(rig: Any, request_: pb.GenerateRequest) -> None:
    service = await rig.start_worker("a")
    service.script = lambda _request: [admitted(), finish(), NoWorker("bye")]
    await rig.until_healthy("a")
    assert kinds(await collect(rig, request_)) == ["admitted", "finish"]
    assert len(service.requests) == 1


async def test_without_a_worker_the_client_is_told_when_to_come_back(rig: Any, request_: pb.GenerateRequest) -> None:
    rig.forwarder = rig.make_forwarder(worker_wait_seconds=0.1)
    with pytest.raises(NoWorker) as refusal:
        await collect(rig, request_)
    assert refusal.value.retry_after_seconds


async def test_a_request_waits_for_a_worker_to_appear(rig: Any, request_: pb.GenerateRequest) -> None:
    answer = asyncio.create_task(collect(rig, request_))
    await asyncio.sleep(0.1)
    await rig.start_worker("a")
    assert kinds(await answer) == ["admitted", "delta", "delta", "finish"]
    assert count(rig, "localcode_router_worker_wait_seconds_sum", model="coder") >= 0.1


async def test_an_admitted_request_that_waits_for_another_worker_says_so(
    rig: Any, request_: pb.GenerateRequest
) -> None:
    broken = await rig.start_worker("a")
    broken.script = lambda _request: [admitted(), asyncio.Event()]
    await rig.until_healthy("a")
    answer = asyncio.create_task(collect(rig, request_))
    await until(lambda: broken.requests)
    rig.unlist("a")
    await rig.stop_worker("a")
    await asyncio.sleep(1.1)
    await rig.start_worker("b")
    events = await answer
    assert kinds(events)[:2] == ["admitted", "progress"]
    assert events[1].progress.phase == pb.PHASE_LOADING
    assert kinds(events)[-1] == "finish"


async def test_leaving_the_answer_cancels_the_workers_call(rig: Any, request_: pb.GenerateRequest) -> None:
    service = await rig.start_worker("a")
    service.script = lambda _request: [admitted(), asyncio.Event()]
    await rig.until_healthy("a")
    events = rig.forwarder.generate(Trip("coder"), request_)
    await anext(events)
    assert count(rig, "localcode_router_open_requests", model="coder") == 1
    await events.aclose()
    await asyncio.sleep(0.1)
    assert service.cancelled_ids == ["r1"]
    assert rig.directory.workers[0].open_count == 0
    assert count(rig, "localcode_router_open_requests", model="coder") == 0


async def test_a_worker_whose_engine_fails_again_and_again_is_left_alone(
    rig: Any, request_: pb.GenerateRequest
) -> None:
    broken = await rig.start_worker("a")
    broken.script = lambda _request: [admitted(), BackendFailed("The engine failed.")]
    await rig.until_healthy("a")
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError):
            await collect(rig, request_)
    await rig.start_worker("b")
    await rig.until_healthy("a", "b")
    for _ in range(3):
        assert kinds(await collect(rig, request_))[-1] == "finish"
    assert len(broken.requests) == 3
