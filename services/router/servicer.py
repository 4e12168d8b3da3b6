"""gRPC of the router: names class and model of a request, and forwards it."""

import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import structlog

from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceServicer
from localcode.router.v1 import router_pb2
from localcode.router.v1.router_pb2_grpc import RouterServiceServicer
from services.router.classify import class_name, classify
from services.router.describe import Describer
from services.router.flights import Flight, Flights, flight_key
from services.router.forward import RETRY_AFTER_SECONDS, Forwarder
from services.router.gate import Gate
from services.router.lineages import continues_conversation
from services.router.metrics import RouterMetrics
from services.router.models import Model, default_model, merge, resolve
from services.router.settings import RouterSettings
from services.router.sizes import prefix_sizes
from services.router.trip import Trip
from services.router.workers import WorkerDirectory
from services.shared.errors import ModelNotFound, NoWorker, ServiceError
from services.shared.lineage import lineage

CALL_TIMEOUT_SECONDS: Final = 30.0
_log = structlog.get_logger(__name__)


class RouterServicer(InferenceServiceServicer, RouterServiceServicer):
    """Serves the models of all workers as one."""

    def __init__(
        self, settings: RouterSettings, configured: tuple[Model, ...], workers: WorkerDirectory, gate: Gate,
        forwarder: Forwarder, flights: Flights, metrics: RouterMetrics,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._defaults = settings.defaults
        self._rules = settings.class_rules
        self._configured = configured
        self._workers = workers
        self._gate = gate
        self._forwarder = forwarder
        self._flights = flights
        self._metrics = metrics
        self._describer = Describer()
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
        trip = await self._prepare(request, context)
        return self._flights.start(request, key, self._forwarder.generate(trip, request))

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
        )

    async def _prepare(self, request: pb.GenerateRequest, context: Any) -> Trip:
        request_class = classify(request, self._rules)
        name = class_name(request_class)
        model = await self._model(request.model, name)
        hashes = lineage(model, request.chat) if request.HasField("chat") else []
        request.model = model
        request.context.request_class = request_class
        request.context.lineage[:] = hashes
        self._class_counts[name] += 1
        self._metrics.requests.labels(name, model).inc()
        _log.info("request_routed", request_id=request.request_id, request_class=name, model=model)
        sizes = prefix_sizes(request)
        statistics = self._gate.statistics[model]
        return Trip(
            model=model,
            request_id=request.request_id,
            request_class=request_class,
            key_id=request.context.key_id,
            group=request.context.parent_session_id,
            hashes=hashes,
            token_counts=[statistics.token_count(size) for size in sizes],
            character_count=sizes[-1],
            is_continuation=continues_conversation(request.chat),
            deadline=_deadline(context.time_remaining()),
        )

    async def _call(self, method: str, request: Any, context: Any) -> Any:
        request.model = await self._model(request.model, "")
        timeout_seconds = context.time_remaining() or CALL_TIMEOUT_SECONDS
        return await self._forwarder.call(Trip(request.model, deadline=_deadline(timeout_seconds)), method, request)

    async def _model(self, requested: str, request_class: str) -> str:
        """Names the model; one that is not known yet may be in the first list of workers."""
        try:
            return self._resolve(requested, request_class)
        except (ModelNotFound, NoWorker) as error:
            unknown = error
        if await self._workers.wait_for_list(self._settings.worker_wait_seconds):
            return self._resolve(requested, request_class)
        raise NoWorker(
            f"{unknown.message} The cache service, which knows the workers, can't be reached.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )

    def _resolve(self, requested: str, request_class: str) -> str:
        return resolve(requested, request_class, self._known(), self._defaults, self._workers.live_models())

    def _known(self) -> tuple[Model, ...]:
        return merge(self._configured, self._workers.seen_models)

    def _default_name(self) -> str:
        try:
            return default_model(self._known(), self._defaults)
        except ServiceError:
            return ""


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds
