import asyncio

import pytest

from cli.model_keeper import ModelKeeper, ModelPlan, Use
from cli.plan import Service
from cli.residency import Limits, State
from cli.supervisor import ChildEnded, ChildSpec
from cli.supervisor_service import ModelPinned, SupervisorServicer
from localcode.inference.v1 import inference_pb2 as pb
from localcode.supervisor.v1 import supervisor_pb2
from services.shared.errors import ModelNotFound

LIMITS = Limits(memory_bytes=9)


class FakeChildren:
    """Processes that serve at once, unless `is_slow`."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.log: list[str] = []
        self.is_slow = False

    def start(self, spec: ChildSpec) -> None:
        self.running.add(spec.name)
        self.log.append(f"+{spec.name}")

    async def stop(self, name: str, *, grace_seconds: float) -> None:
        self.running.discard(name)
        self.log.append(f"-{name}")

    async def answers(self, address: str) -> bool:
        return address in self.running and not self.is_slow


class Rig:
    """A keeper of three models of 4 bytes each with room for two, and a clock that a test moves."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.children, self.now = FakeChildren(), 100.0
        plans = [
            ModelPlan(name, Service(ChildSpec(name, (), {}), name, name), 4, is_pinned=name == "small")
            for name in ("coder", "small", "big")
        ]
        self.keeper = ModelKeeper(plans, limits, self.children, answers=self.children.answers, clock=lambda: self.now)
        self.servicer = SupervisorServicer(self.keeper)

    async def pass_time(self, seconds: float, **uses: Use) -> None:
        """Lets time pass in small steps, with a router that reports."""
        end = self.now + seconds
        while self.now < end:
            self.keeper.report("router", uses)
            await self.keeper.step()
            await asyncio.sleep(0)
            self.now += 0.25

    def states(self) -> dict[str, State]:
        return {name: model.state for name, model in self.keeper.models.items()}


@pytest.fixture
async def rig() -> Rig:
    rig = Rig()
    rig.keeper.load_first("coder")
    await rig.pass_time(1)
    return rig


async def test_at_start_what_fits_is_loaded(rig: Rig) -> None:
    assert rig.children.running == {"coder", "small"}
    assert rig.states() == {"coder": State.LOADED, "small": State.LOADED, "big": State.UNLOADED}


async def test_a_request_for_an_unloaded_model_makes_room_for_it(rig: Rig) -> None:
    await rig.pass_time(4, big=Use(waiting_count=1))
    assert rig.children.log[2:] == ["-coder", "+big"]
    assert rig.states()["big"] is State.LOADED


async def test_a_model_that_streams_is_unloaded_only_when_it_is_done(rig: Rig) -> None:
    await rig.pass_time(60, big=Use(waiting_count=1), coder=Use(open_count=1))
    assert rig.states() == {"coder": State.DRAINING, "small": State.LOADED, "big": State.UNLOADED}
    assert "coder" in rig.children.running
    await rig.pass_time(2, big=Use(waiting_count=1))
    assert rig.children.running == {"small", "big"}


async def test_an_unused_model_is_unloaded_after_its_time_and_loaded_again_on_demand() -> None:
    rig = Rig(Limits(memory_bytes=9, idle_seconds=30))
    rig.keeper.load_first("coder")
    await rig.pass_time(29)
    assert "coder" in rig.children.running
    await rig.pass_time(5)
    assert rig.children.running == {"small"}
    await rig.pass_time(1, coder=Use(waiting_count=1))
    assert rig.states()["coder"] is State.LOADED


async def test_the_report_of_a_router_that_died_expires(rig: Rig) -> None:
    rig.keeper.report("dead", {"coder": Use(open_count=1)})
    await rig.pass_time(4, big=Use(waiting_count=1))
    assert rig.states()["coder"] is State.LOADED
    await rig.pass_time(6, big=Use(waiting_count=1))
    assert rig.states()["big"] is State.LOADED


async def test_a_model_that_cannot_be_loaded_is_given_up_for_a_while_and_says_why(rig: Rig) -> None:
    rig.children.is_slow = True
    await rig.pass_time(3, big=Use(waiting_count=1))
    for count in range(3):
        assert rig.states()["big"] is State.LOADING
        rig.keeper.ended(ChildEnded("big", 1, 0.5, count + 1))
    await rig.pass_time(5, big=Use(waiting_count=1))
    assert rig.states()["big"] is State.UNLOADED
    assert "exit code 1" in rig.keeper.models["big"].problem
    rig.children.is_slow = False
    await rig.pass_time(30, big=Use(waiting_count=1))
    assert (rig.states()["big"], rig.keeper.models["big"].problem) == (State.LOADED, "")


async def test_a_person_loads_and_unloads(rig: Rig) -> None:
    unloading = await rig.servicer.UnloadModel(supervisor_pb2.UnloadModelRequest(model="coder"), None)
    assert unloading.model.state == pb.MODEL_STATE_UNLOADING
    await rig.pass_time(3)
    assert rig.states()["coder"] is State.UNLOADED
    loading = await rig.servicer.LoadModel(supervisor_pb2.LoadModelRequest(model="coder"), None)
    assert loading.model.state == pb.MODEL_STATE_LOADING
    await rig.pass_time(1)
    assert rig.states()["coder"] is State.LOADED


async def test_a_model_that_waits_for_room_says_so(rig: Rig) -> None:
    rig.keeper.report("router", {"coder": Use(open_count=1)})
    answer = await rig.servicer.LoadModel(supervisor_pb2.LoadModelRequest(model="big"), None)
    assert answer.model.state == pb.MODEL_STATE_WAITING


async def test_a_pinned_model_is_not_unloaded(rig: Rig) -> None:
    with pytest.raises(ModelPinned, match="'small' is pinned"):
        await rig.servicer.UnloadModel(supervisor_pb2.UnloadModelRequest(model="small"), None)


async def test_an_unknown_model_is_refused(rig: Rig) -> None:
    with pytest.raises(ModelNotFound):
        await rig.servicer.LoadModel(supervisor_pb2.LoadModelRequest(model="gpt-5"), None)


async def test_routers_hear_where_models_are_and_how_long_loading_takes(rig: Rig) -> None:
    answer = await rig.servicer.ReportUse(supervisor_pb2.ReportUseRequest(router_id="r"), None)
    assert [(model.name, model.state, model.pinned) for model in answer.models] == [
        ("coder", pb.MODEL_STATE_LOADED, False),
        ("small", pb.MODEL_STATE_LOADED, True),
        ("big", pb.MODEL_STATE_UNLOADED, False),
    ]
    assert answer.models[0].expected_loading_seconds > 0
