import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from localcode.inference.v1 import inference_pb2 as pb
from localcode.router.v1 import router_pb2
from localcode.supervisor.v1 import supervisor_pb2
from services.router.models import Model
from services.router.residency import ModelsFixed, Residency
from services.router.servicer import RouterServicer
from services.router.settings import RouterSettings
from services.router.trip import Trip
from services.shared.errors import NoWorker

CONFIGURED = (Model("coder", ("main",), 4096), Model("small", (), 4096))


class FakeSupervisor:
    """Says where models are as a test wants it, and remembers what it was told."""

    def __init__(self) -> None:
        self.models = {
            "coder": supervisor_pb2.ManagedModel(name="coder", state=pb.MODEL_STATE_UNLOADED),
            "small": supervisor_pb2.ManagedModel(name="small", state=pb.MODEL_STATE_LOADED, pinned=True),
        }
        self.reports: list[supervisor_pb2.ReportUseRequest] = []
        self.asked: list[str] = []
        self.is_away = False

    async def ReportUse(self, request: Any, *, timeout: float) -> supervisor_pb2.ReportUseResponse:  # noqa: ASYNC109
        if self.is_away:
            raise AioRpcError(StatusCode.UNAVAILABLE, Metadata(), Metadata())
        self.reports.append(request)
        return supervisor_pb2.ReportUseResponse(models=self.models.values())

    async def LoadModel(self, request: Any, *, timeout: float) -> supervisor_pb2.LoadModelResponse:  # noqa: ASYNC109
        self.asked.append(f"load {request.model}")
        return supervisor_pb2.LoadModelResponse(model=self.models[request.model])

    async def UnloadModel(self, request: Any, *, timeout: float) -> supervisor_pb2.UnloadModelResponse:  # noqa: ASYNC109
        self.asked.append(f"unload {request.model}")
        return supervisor_pb2.UnloadModelResponse(model=self.models[request.model])

    def move(self, model: str, state: Any, **fields: Any) -> None:
        self.models[model] = supervisor_pb2.ManagedModel(name=model, state=state, **fields)

    def waiting(self) -> set[str]:
        return {use.model for use in self.reports[-1].uses if use.waiting_count} if self.reports else set()


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
def supervisor() -> FakeSupervisor:
    return FakeSupervisor()


@pytest.fixture
async def residency(rig: Any, supervisor: FakeSupervisor, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Residency]:
    monkeypatch.setattr("services.router.residency.REPORT_SECONDS", 0.05)
    monkeypatch.setattr("services.router.forward.PROGRESS_SECONDS", 0.05)
    residency = Residency(supervisor)  # type: ignore[arg-type]
    rig.directory.is_leaving = residency.is_leaving
    residency.open_counts, residency.on_change = rig.directory.open_counts, rig.gate.dispatch_all
    rig.forwarder = rig.make_forwarder(worker_wait_seconds=0.3, residency=residency, load_wait_seconds=10)
    async with residency.watching():
        await until(lambda: supervisor.reports)
        yield residency


def ask(rig: Any, request: pb.GenerateRequest) -> "asyncio.Task[list[pb.GenerateResponse]]":
    async def collect() -> list[pb.GenerateResponse]:
        return [event async for event in rig.forwarder.generate(Trip("coder"), request)]

    return asyncio.create_task(collect())


def make_servicer(rig: Any, residency: Residency | None, **settings: Any) -> RouterServicer:
    return RouterServicer(
        RouterSettings(**settings), CONFIGURED, rig.directory, rig.gate, rig.forwarder, rig.flights, rig.metrics,
        residency=residency,
    )  # fmt: skip


async def test_a_request_has_its_model_loaded_and_waits_for_it(
    rig: Any, residency: Residency, supervisor: FakeSupervisor, request_: pb.GenerateRequest
) -> None:
    answer = ask(rig, request_)
    await until(lambda: "coder" in supervisor.waiting())
    supervisor.move("coder", pb.MODEL_STATE_WAITING)
    await asyncio.sleep(0.2)
    supervisor.move("coder", pb.MODEL_STATE_LOADING, loading_seconds=3.0, expected_loading_seconds=12.0)
    await asyncio.sleep(0.5)  # longer than a worker is waited for that nobody loads
    await rig.start_worker("a")
    supervisor.move("coder", pb.MODEL_STATE_LOADED)
    events = await answer
    assert events[-1].HasField("finish")
    seen = [event.progress for event in events if event.HasField("progress")]
    assert [progress.phase for progress in seen if progress.phase == pb.PHASE_MEMORY]
    assert (
        pb.Progress(phase=pb.PHASE_LOADING, model="coder", loading_seconds=3.0, expected_loading_seconds=12.0) in seen
    )
    await until(lambda: "coder" not in supervisor.waiting())


async def test_what_workers_work_on_is_reported(
    rig: Any, residency: Residency, supervisor: FakeSupervisor, request_: pb.GenerateRequest
) -> None:
    service = await rig.start_worker("a")
    go_on = asyncio.Event()
    service.script = lambda _request: [go_on]
    supervisor.move("coder", pb.MODEL_STATE_LOADED)
    await rig.until_healthy("a")
    answer = ask(rig, request_)
    await until(lambda: [(use.model, use.open_count) for use in supervisor.reports[-1].uses] == [("coder", 1)])
    answer.cancel()
    await until(lambda: not supervisor.reports[-1].uses)


async def test_a_model_that_is_about_to_be_unloaded_gets_no_new_requests(
    rig: Any, residency: Residency, supervisor: FakeSupervisor, request_: pb.GenerateRequest
) -> None:
    service = await rig.start_worker("a")
    supervisor.move("coder", pb.MODEL_STATE_UNLOADING)
    await until(lambda: residency.is_leaving("coder"))
    answer = ask(rig, request_)
    await until(lambda: "coder" in supervisor.waiting())
    await rig.until_healthy("a")
    assert service.requests == []
    supervisor.move("coder", pb.MODEL_STATE_LOADED)
    assert (await answer)[-1].HasField("finish")


async def test_a_model_that_cannot_be_loaded_is_an_error_with_its_cause(
    rig: Any, residency: Residency, supervisor: FakeSupervisor, request_: pb.GenerateRequest
) -> None:
    answer = ask(rig, request_)
    await until(lambda: "coder" in supervisor.waiting())
    supervisor.move("coder", pb.MODEL_STATE_UNLOADED, problem="It ended 3 times while loading.")
    with pytest.raises(NoWorker, match=r"can't be loaded\. It ended 3 times"):
        await answer


async def test_a_request_gives_up_where_there_is_never_room(
    rig: Any, residency: Residency, supervisor: FakeSupervisor, request_: pb.GenerateRequest
) -> None:
    rig.forwarder = rig.make_forwarder(worker_wait_seconds=0.1, residency=residency, load_wait_seconds=0.2)
    supervisor.move("coder", pb.MODEL_STATE_WAITING)
    with pytest.raises(NoWorker):
        await ask(rig, request_)


async def test_the_supervisors_last_word_counts_while_it_is_away(
    rig: Any, residency: Residency, supervisor: FakeSupervisor
) -> None:
    supervisor.is_away = True
    await asyncio.sleep(0.2)
    assert residency.can_come("coder")
    assert not residency.can_come("absent")


async def test_unloaded_models_are_listed_with_their_state(
    rig: Any, residency: Residency, supervisor: FakeSupervisor
) -> None:
    servicer = make_servicer(rig, residency)
    models = (await servicer.Describe(pb.DescribeRequest(), None)).models
    assert [(model.name, model.state, model.pinned) for model in models] == [
        ("coder", pb.MODEL_STATE_UNLOADED, False),
        ("small", pb.MODEL_STATE_LOADED, True),
    ]
    status = await servicer.GetStatus(router_pb2.GetStatusRequest(), None)
    assert list(status.loadable_models) == ["coder"]


async def test_a_model_is_loaded_and_unloaded_by_any_of_its_names(
    rig: Any, residency: Residency, supervisor: FakeSupervisor
) -> None:
    servicer = make_servicer(rig, residency)
    loaded = await servicer.LoadModel(router_pb2.LoadModelRequest(model="main"), None)
    assert loaded.model.name == "coder"
    await servicer.UnloadModel(router_pb2.UnloadModelRequest(model="coder"), None)
    assert supervisor.asked == ["load coder", "unload coder"]


async def test_without_a_supervisor_models_are_fixed(rig: Any) -> None:
    with pytest.raises(ModelsFixed, match="'coder' is not loaded and unloaded by this server"):
        await make_servicer(rig, None).LoadModel(router_pb2.LoadModelRequest(model="coder"), None)


async def test_the_time_to_load_counts_in_the_choice_of_the_model(
    rig: Any, residency: Residency, supervisor: FakeSupervisor, request_: pb.GenerateRequest
) -> None:
    await rig.start_worker("b", model="small")
    await rig.until_healthy("b")
    servicer = make_servicer(rig, residency, default_model="small", class_models={"chat": "coder"})
    request_.model = "auto"
    answer = await servicer.Route(router_pb2.RouteRequest(request=request_), None)
    assert answer.routed.model == "coder"
    supervisor.move("coder", pb.MODEL_STATE_UNLOADED, expected_loading_seconds=90.0)
    await until(lambda: residency.seconds_to_load("coder") == 90.0)
    answer = await servicer.Route(router_pb2.RouteRequest(request=request_), None)
    assert (answer.routed.model, answer.routed.reasons[-1]) == ("small", "90 s sooner than coder")
