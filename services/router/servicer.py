"""gRPC of the router: names class and model of a request, and forwards it."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, TypeVar

import structlog

from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceServicer
from localcode.router.v1 import router_pb2
from localcode.router.v1.router_pb2_grpc import RouterServiceServicer
from services.router.classify import class_name, classify, has_image, may_call
from services.router.describe import Describer, route_response
from services.router.flights import Flight, Flights, flight_key
from services.router.forward import Forwarder
from services.router.gate import Gate
from services.router.language import prompt_language
from services.router.lineages import continues_conversation
from services.router.metrics import RouterMetrics
from services.router.models import AUTO, Model, default_model, merge, named
from services.router.patience import RETRY_AFTER_SECONDS
from services.router.residency import Residency
from services.router.routes import Choice, ModelState, RouteSettings, Wanted, choose_model
from services.router.settings import RouterSettings
from services.router.trip import Trip
from services.router.workers import WorkerDirectory
from services.shared.errors import ModelNotFound, NoWorker, ServiceError

CALL_TIMEOUT_SECONDS: Final = 30.0
T = TypeVar("T")
_log = structlog.get_logger(__name__)


class RouterServicer(InferenceServiceServicer, RouterServiceServicer):
    """Serves the models of all workers as one."""

    def __init__(
        self, settings: RouterSettings, configured: tuple[Model, ...], workers: WorkerDirectory, gate: Gate,
        forwarder: Forwarder, flights: Flights, metrics: RouterMetrics, routes: RouteSettings | None = None,
        residency: Residency | None = None,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._defaults = settings.defaults
        self._rules = settings.class_rules
        self._routes = routes or RouteSettings()
        self._configured = configured
        self._workers = workers
        self._gate = gate
        self._forwarder = forwarder
        self._flights = flights
        self._metrics = metrics
        self._residency = residency or Residency(None)
        self._describer = Describer(self._residency)
        self._class_counts: Counter[str] = Counter()

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncGenerator[pb.GenerateResponse]:
        """Streams the answer of a worker; cancelling the call ends it, at once or when nobody comes back for it."""
        flight, is_complete = await self._flight(request, context), False
        context.add_done_callback(  # also where the stream is not being read at the moment
            lambda *_: self._flights.leave(flight, is_complete=is_complete)
        )
        try:
            async with aclosing(flight.read()) as events:
                async for event in events:
                    is_complete = event.HasField("finish")
                    yield event
        finally:
            self._flights.leave(flight, is_complete=is_complete or flight.has_failed)

    async def _flight(self, request: pb.GenerateRequest, context: Any) -> Flight:
        """Finds the answer that this request began before its client was cut off, or begins one."""
        key = flight_key(request)
        if key and (flight := self._flights.rejoin(key)) is not None:
            _log.info("request_rejoined", request_id=request.request_id)
            return flight
        trip, routed = await self._prepare(request, context)
        return self._flights.start(request, key, _announced(routed, self._forwarder.generate(trip, request)))

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:
        """Describes the models of all workers, the default first."""
        models = await self._describer.describe(self._known(), self._workers, default=self._default_name())
        return pb.DescribeResponse(models=models)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        """Asks a worker of the model."""
        answer: pb.TokenizeResponse = await self._call("Tokenize", request, context)
        return answer

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Any) -> pb.DetokenizeResponse:
        """Asks a worker of the model."""
        answer: pb.DetokenizeResponse = await self._call("Detokenize", request, context)
        return answer

    async def RenderPrompt(self, request: pb.RenderPromptRequest, context: Any) -> pb.RenderPromptResponse:
        """Asks a worker of the model."""
        answer: pb.RenderPromptResponse = await self._call("RenderPrompt", request, context)
        return answer

    async def GetStatus(self, request: router_pb2.GetStatusRequest, context: Any) -> router_pb2.GetStatusResponse:
        """Reports the workers and services that the router sees, and what it has routed."""
        return router_pb2.GetStatusResponse(
            default_model=self._default_name(),
            workers=[
                router_pb2.WorkerStatus(
                    worker=worker.registration, healthy=worker.is_healthy, open_request_count=worker.open_count
                )
                for worker in self._workers.workers
            ],
            cache_reachable=self._workers.is_cache_reachable,
            class_counts=[
                router_pb2.ClassCount(request_class=name, count=count)
                for name, count in sorted(self._class_counts.items())
            ],
            migration_count=self._forwarder.migration_count,
            queues=[
                router_pb2.QueueStatus(model=model, waiting_count=count)
                for model, count in sorted(self._gate.waiting_counts().items())
            ],
            loadable_models=self._residency.loadable,
        )

    async def Route(self, request: router_pb2.RouteRequest, context: Any) -> router_pb2.RouteResponse:
        """Says which model a request would go to, and why."""
        _, choice = await self._decide(request.request)
        return route_response(class_name(request.request.context.request_class), choice)

    async def Estimate(self, request: router_pb2.EstimateRequest, context: Any) -> router_pb2.EstimateResponse:
        """Says which worker would answer a request, and when its first token is to be expected."""
        trip, _ = await self._decide(request.request)
        return await self._forwarder.estimate(trip, request.request)

    async def LoadModel(self, request: router_pb2.LoadModelRequest, context: Any) -> router_pb2.LoadModelResponse:
        """Asks the supervisor for a model."""
        model = await self._residency.load(named(request.model, self._known()))
        return router_pb2.LoadModelResponse(model=model)

    async def UnloadModel(self, request: router_pb2.UnloadModelRequest, context: Any) -> router_pb2.UnloadModelResponse:
        """Asks the supervisor to unload a model."""
        model = await self._residency.unload(named(request.model, self._known()))
        return router_pb2.UnloadModelResponse(model=model)

    async def _prepare(self, request: pb.GenerateRequest, context: Any) -> tuple[Trip, pb.Routed]:
        trip, choice = await self._decide(request)
        trip.deadline = _deadline(context.time_remaining())
        name = class_name(trip.request_class)
        self._class_counts[name] += 1
        self._metrics.requests.labels(name, trip.model).inc()
        _log.info(
            "request_routed", request_id=request.request_id, request_class=name, model=trip.model,
            reasons=choice.reasons,
        )  # fmt: skip
        return trip, pb.Routed(model=trip.model, request_class=name, reasons=choice.reasons)

    async def _decide(self, request: pb.GenerateRequest) -> tuple[Trip, Choice]:
        """Names class and model of a request, and writes them into it."""
        found = classify(request, self._rules)
        request.context.request_class = found.request_class
        name = class_name(found.request_class)
        trips = await self._looked_up(request)
        choice = await self._known_model(lambda: self._choose(request, name, trips))
        trip = trips.get(choice.model) or self._forwarder.trip(request, choice.model)
        request.model, request.context.lineage[:] = choice.model, trip.hashes
        return trip, replace(choice, reasons=(f"{name}: {found.rule}", *choice.reasons))

    async def _looked_up(self, request: pb.GenerateRequest) -> dict[str, Trip]:
        """Prepares the ways to all models between which `auto` chooses: which one is warm, the index may know alone."""
        models = self._workers.live_models()
        if request.model not in ("", AUTO) or len(models) < 2 or not continues_conversation(request.chat):
            return {}
        trips = {model: self._forwarder.trip(request, model) for model in models}
        await asyncio.gather(*map(self._forwarder.look_up, trips.values()))
        return trips

    def _choose(self, request: pb.GenerateRequest, name: str, trips: dict[str, Trip]) -> Choice:
        known = {model.name: model for model in self._known()}

        def state_of(model: str) -> ModelState:
            trip = trips[model] = trips.get(model) or self._forwarder.trip(request, model)
            return self._forwarder.model_state(trip, known[model])

        wanted = Wanted(
            requested=request.model,
            request_class=name,
            prompt_token_count=self._forwarder.prompt_token_estimate(request),
            has_images=has_image(request.chat),
            has_tools=may_call(request.chat),
            language=prompt_language(request.chat, least_share=self._routes.language_share),
            max_tokens=request.max_tokens,
        )
        return choose_model(wanted, tuple(known.values()), state_of, self._defaults, self._routes)

    async def _call(self, method: str, request: Any, context: Any) -> Any:
        request.model = await self._known_model(lambda: self._named(request.model))
        timeout_seconds = context.time_remaining() or CALL_TIMEOUT_SECONDS
        return await self._forwarder.call(Trip(request.model, deadline=_deadline(timeout_seconds)), method, request)

    def _named(self, requested: str) -> str:
        is_auto = not requested or requested == AUTO
        return default_model(self._known(), self._defaults) if is_auto else named(requested, self._known())

    async def _known_model(self, decide: Callable[[], T]) -> T:
        """Decides by the models that are known; one that is not may be in the first list of workers."""
        try:
            return decide()
        except (ModelNotFound, NoWorker) as error:
            unknown = error
        if await self._workers.wait_for_list(self._settings.worker_wait_seconds):
            return decide()
        raise NoWorker(
            f"{unknown.message} The cache service, which knows the workers, can't be reached.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )

    def _known(self) -> tuple[Model, ...]:
        return merge(self._configured, self._workers.seen_models)

    def _default_name(self) -> str:
        try:
            return default_model(self._known(), self._defaults)
        except ServiceError:
            return ""


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


async def _announced(
    routed: pb.Routed, events: AsyncGenerator[pb.GenerateResponse]
) -> AsyncGenerator[pb.GenerateResponse]:
    yield pb.GenerateResponse(routed=routed)
    async with aclosing(events):
        async for event in events:
            yield event
