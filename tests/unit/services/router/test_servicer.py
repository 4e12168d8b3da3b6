import asyncio
from typing import Any

import pytest

from localcode.cache.v1 import cache_pb2
from localcode.inference.v1 import inference_pb2 as pb
from localcode.router.v1 import router_pb2
from services.router.models import Model
from services.router.servicer import RouterServicer
from services.router.settings import RouterSettings
from services.shared.errors import ModelNotFound, NoWorker
from services.shared.lineage import lineage
from tests.fakes.inference import admitted, content, finish

CONFIGURED = (Model("coder", ("default",), 32768), Model("small"))


class Context:
    """What the servicer uses of gRPC's."""

    def __init__(self) -> None:
        self.callbacks: list[Any] = []

    def time_remaining(self) -> float | None:
        return None

    def add_done_callback(self, callback: Any) -> None:
        self.callbacks.append(callback)


def make_servicer(rig: Any, configured: tuple[Model, ...] = CONFIGURED, **settings: Any) -> RouterServicer:
    chosen = RouterSettings(**{"worker_wait_seconds": 0.2, **settings})
    return RouterServicer(chosen, configured, rig.directory, rig.gate, rig.forwarder, rig.flights, rig.metrics)


def title_request(model: str = "") -> pb.GenerateRequest:
    system = pb.Message(role=pb.ROLE_SYSTEM, content=[pb.ContentPart(text="You are a title generator.")])
    user = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text="Hi")])
    return pb.GenerateRequest(request_id="r1", model=model, chat=pb.ChatPrompt(messages=[system, user]))


async def ask(servicer: RouterServicer, request: pb.GenerateRequest) -> list[pb.GenerateResponse]:
    return [event async for event in servicer.Generate(request, Context())]


async def test_the_worker_learns_class_lineage_and_the_models_name(rig: Any) -> None:
    service = await rig.start_worker("a")
    await rig.until_healthy("a")
    request = title_request("default")
    await ask(make_servicer(rig), request)
    received = service.requests[0]
    assert received.model == "coder"
    assert received.context.request_class == pb.REQUEST_CLASS_TITLE
    assert list(received.context.lineage) == lineage("coder", request.chat)


async def test_a_class_goes_to_its_own_model(rig: Any) -> None:
    coder, small = await rig.start_worker("a"), await rig.start_worker("b", model="small")
    await rig.until_healthy("a", "b")
    servicer = make_servicer(rig, class_models={"title": "small"})
    await ask(servicer, title_request())
    await ask(servicer, title_request("auto"))
    await ask(servicer, title_request("coder"))
    assert (len(coder.requests), len(small.requests)) == (1, 2)


async def test_an_unknown_model_is_refused_with_the_known_ones(rig: Any) -> None:
    await rig.start_worker("a", model="extra")
    await rig.until_healthy("a")
    with pytest.raises(ModelNotFound, match="coder, small, extra"):
        await ask(make_servicer(rig), title_request("gpt-5"))


async def test_a_model_that_no_one_configured_is_awaited_until_the_workers_are_known(cold_rig: Any) -> None:
    await cold_rig.start_worker("a", model="extra")
    servicer = make_servicer(cold_rig, worker_wait_seconds=5)
    answer = asyncio.create_task(ask(servicer, title_request("extra")))
    await asyncio.sleep(0.05)
    async with cold_rig.directory.watching():
        assert (await answer)[-1].HasField("finish")


async def test_without_a_cache_service_an_unknown_model_may_still_appear(cold_rig: Any) -> None:
    with pytest.raises(NoWorker, match=r"'extra' does not exist.*cache service"):
        await ask(make_servicer(cold_rig), title_request("extra"))


async def test_a_router_without_any_model_says_so(rig: Any) -> None:
    with pytest.raises(NoWorker, match="No model is configured"):
        await ask(make_servicer(rig, ()), title_request())


async def test_the_default_model_is_described_first(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    servicer = make_servicer(rig, default_model="small")
    models = (await servicer.Describe(pb.DescribeRequest(), None)).models
    assert [model.name for model in models] == ["small", "coder"]


async def test_a_model_keeps_its_description_while_its_worker_restarts(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    servicer = make_servicer(rig)
    before = (await servicer.Describe(pb.DescribeRequest(), None)).models[0]
    rig.directory.mark_lost(rig.directory.workers[0])
    after = (await servicer.Describe(pb.DescribeRequest(), None)).models[0]
    assert before.loaded_at_seconds > 0
    assert after.loaded_at_seconds == 0
    assert (after.context_length, after.owner, after.aliases) == (before.context_length, "Qwen", ["default"])


async def test_the_status_tells_workers_and_classes(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    servicer = make_servicer(rig)
    await ask(servicer, title_request())
    status = await servicer.GetStatus(router_pb2.GetStatusRequest(), None)
    assert status == router_pb2.GetStatusResponse(
        default_model="coder",
        workers=[router_pb2.WorkerStatus(worker=rig.cache.workers[0], healthy=True)],
        cache_reachable=True,
        class_counts=[router_pb2.ClassCount(request_class="title", count=1)],
    )
    labels = {"request_class": "title", "model": "coder"}
    assert rig.registry.get_sample_value("localcode_router_requests_total", labels) == 1


async def test_the_end_of_a_clients_call_cancels_the_workers(rig: Any) -> None:
    service = await rig.start_worker("a")
    service.script = lambda _request: [admitted(), asyncio.Event()]
    await rig.until_healthy("a")
    context = Context()
    events = make_servicer(rig).Generate(title_request("coder"), context)
    assert [(await anext(events)).WhichOneof("event") for _ in range(2)] == ["routed", "admitted"]
    assert len(context.callbacks) == 1
    context.callbacks[0](context)
    await asyncio.sleep(0.1)
    assert service.cancelled_ids == ["r1"]
    await events.aclose()
    assert rig.directory.workers[0].open_count == 0


async def test_the_decision_is_said_first(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    first = (await ask(make_servicer(rig), title_request("default")))[0]
    expected = pb.Routed(model="coder", request_class="title", reasons=["title: rule title", "alias default"])
    assert first.routed == expected


async def test_a_dry_run_says_what_was_considered_and_asks_no_worker(rig: Any) -> None:
    service = await rig.start_worker("a")
    await rig.until_healthy("a")
    servicer = make_servicer(rig, class_models={"title": "small"})
    answer = await servicer.Route(router_pb2.RouteRequest(request=title_request("auto")), None)
    assert answer.routed.model == "coder"
    assert [(one.model, one.obstacle) for one in answer.considered] == [("coder", ""), ("small", "small does not run")]
    assert service.requests == []


async def test_an_estimate_names_the_worker_and_what_it_has_to_compute(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    servicer = make_servicer(rig)
    request = title_request("coder")
    request.chat.messages[1].content[0].text = "word " * 1000
    ask_again = pb.GenerateRequest()
    ask_again.CopyFrom(request)
    cold = await servicer.Estimate(router_pb2.EstimateRequest(request=request), Context())
    assert (cold.model, cold.worker_id, cold.is_tokenized) == ("coder", "a", False)
    assert cold.prefill_token_count == cold.prompt_token_count > 1000
    assert cold.prefill_seconds > 1
    await ask(servicer, ask_again)
    warm = await servicer.Estimate(router_pb2.EstimateRequest(request=request), Context())
    assert warm.cached[0].token_count > 0
    assert warm.prefill_seconds < cold.prefill_seconds / 10


async def test_a_client_that_was_cut_off_gets_its_answer_from_the_beginning(rig: Any) -> None:
    go_on = asyncio.Event()
    service = await rig.start_worker("a")
    service.script = lambda _request: [admitted(), content("Hel"), go_on, content("lo"), finish()]
    await rig.until_healthy("a")
    servicer, request = make_servicer(rig), title_request("coder")
    request.context.session_id = "ses_1"
    again = pb.GenerateRequest()
    again.CopyFrom(request)
    again.request_id = "r2"
    events = servicer.Generate(request, Context())
    for _ in range(3):
        await anext(events)
    await events.aclose()
    answer = asyncio.create_task(ask(servicer, again))
    await asyncio.sleep(0.05)
    go_on.set()
    assert "".join(event.delta.content for event in await answer) == "Hello"
    assert len(service.requests) == 1


def continued(model: str = "auto", *, tools: int = 0) -> pb.GenerateRequest:
    roles = (pb.ROLE_SYSTEM, pb.ROLE_USER, pb.ROLE_ASSISTANT, pb.ROLE_USER)
    messages = [pb.Message(role=role, content=[pb.ContentPart(text="word " * 5_000)]) for role in roles]
    offered = [pb.Tool(name=f"tool{number}") for number in range(tools)]
    return pb.GenerateRequest(request_id="r1", model=model, chat=pb.ChatPrompt(messages=messages, tools=offered))


async def start_coder_and_small(rig: Any, *, small_ignores_tools: bool = False) -> None:
    await rig.start_worker("a")
    await rig.start_worker("b", model="small")
    coder, small = (worker.models[0] for worker in rig.cache.workers)
    coder.context_length = small.context_length = 100_000
    small.ignores_tools = small_ignores_tools
    await rig.until_healthy("a", "b")


async def test_the_model_that_the_index_knows_to_be_warm_is_not_left(rig: Any) -> None:
    """A router that has just started knows nothing itself: without the index all models look cold."""
    await start_coder_and_small(rig)
    known = (Model("coder"), Model("small"))
    servicer = make_servicer(rig, known, class_models={"main": "small"})
    route = router_pb2.RouteRequest(request=continued(tools=1))
    cold = await servicer.Route(route, None)
    rig.cache.match = cache_pb2.LookupLineageResponse(matched_count=3, worker_ids=["a"])
    warm = await servicer.Route(router_pb2.RouteRequest(request=continued(tools=1)), None)
    assert (cold.routed.model, warm.routed.model) == ("small", "coder")
    assert warm.routed.reasons[-1].endswith("s sooner than small")
    assert {one.model: one.reason for one in warm.considered} == {"coder": "default", "small": "class main"}


async def test_the_index_is_asked_for_a_choice_alone(rig: Any) -> None:
    await rig.start_worker("a")
    await rig.until_healthy("a")
    await ask(make_servicer(rig, (Model("coder"),)), continued())
    assert rig.cache.lookups == []
    await rig.start_worker("b", model="small")
    await rig.until_healthy("a", "b")
    servicer = make_servicer(rig, (Model("coder"), Model("small")))
    await servicer.Route(router_pb2.RouteRequest(request=title_request("auto")), None)
    await servicer.Route(router_pb2.RouteRequest(request=continued("coder")), None)
    assert rig.cache.lookups == []


async def test_a_request_with_tools_passes_by_a_model_that_ignores_them(rig: Any) -> None:
    await start_coder_and_small(rig, small_ignores_tools=True)
    servicer = make_servicer(rig, class_models={"main": "small"})
    request = continued(tools=1)
    answer = await servicer.Route(router_pb2.RouteRequest(request=request), None)
    assert answer.routed.model == "coder"
    assert "small takes no tools" in answer.routed.reasons
    request = continued(tools=1)
    request.chat.tool_choice.mode = pb.TOOL_CHOICE_MODE_NONE
    assert (await servicer.Route(router_pb2.RouteRequest(request=request), None)).routed.model == "small"
