"""Sends a request to a worker and its answer back. A worker that is lost is replaced: unseen before the first token, as
a pause behind it, for the next one continues the answer."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import grpc
import structlog

from localcode.inference.v1 import inference_pb2 as pb
from localcode.router.v1 import router_pb2
from services.router.gate import Gate, Ticket
from services.router.lineages import Lineages, continues_conversation
from services.router.metrics import RouterMetrics
from services.router.models import Model
from services.router.patience import RETRY_AFTER_SECONDS, Patience, nobody
from services.router.placement import Candidate, Need, expect, ranked
from services.router.residency import Residency
from services.router.routes import ModelState
from services.router.sizes import prefix_sizes
from services.router.statistics import ModelStatistics
from services.router.trip import Failure, Trip, judge
from services.router.worker import RoutedWorker
from services.router.workers import WorkerDirectory
from services.shared.errors import WorkerLost
from services.shared.lineage import lineage

MAX_LOST_IN_A_ROW: Final = 3
"""Workers that may be lost without a new token: a request that kills workers must not kill all of them."""
PROGRESS_SECONDS: Final = 1.0
_log = structlog.get_logger(__name__)


class Forwarder:
    """Carries requests to workers."""

    def __init__(
        self, workers: WorkerDirectory, gate: Gate, lineages: Lineages, metrics: RouterMetrics, *,
        worker_wait_seconds: float, resume_wait_seconds: float = 60.0, residency: Residency | None = None,
        load_wait_seconds: float = 600.0,
    ) -> None:  # fmt: skip
        self._workers = workers
        self._gate = gate
        self._lineages = lineages
        self._metrics = metrics
        self._residency = residency or Residency(None)
        self._patience = Patience(
            workers, self._residency, worker_wait_seconds=worker_wait_seconds,
            resume_wait_seconds=resume_wait_seconds, load_wait_seconds=load_wait_seconds,
        )  # fmt: skip
        self.migration_count = 0

    async def generate(self, trip: Trip, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse]:
        """Streams the answer. Leaving it cancels the worker's call."""
        await self._look_up(trip)
        while not trip.is_finished:
            with self._gate.waiting(trip) as ticket:
                while (worker := await self._next_worker(trip, ticket)) is None:
                    yield self._progress(trip, ticket)
            with self._attempt(trip, worker):
                call = worker.stub.Generate(trip.begin_attempt(request), timeout=trip.timeout_seconds)
                try:
                    async for event in call:
                        if (passed := self._passed(trip, worker, event)) is not None:
                            yield passed
                    if not trip.is_finished:
                        self._lost(trip, worker, "ended its answer without a finish")
                except grpc.aio.AioRpcError as error:
                    self._failed(trip, worker, error)
                finally:
                    call.cancel()

    def trip(self, request: pb.GenerateRequest, model: str) -> Trip:
        """Prepares the way of a request to a model."""
        sizes, statistics = prefix_sizes(request), self._gate.statistics[model]
        return Trip(
            model=model,
            request_id=request.request_id,
            request_class=request.context.request_class,
            key_id=request.context.key_id,
            group=request.context.parent_session_id,
            hashes=lineage(model, request.chat) if request.HasField("chat") else [],
            token_counts=[statistics.token_count(size) for size in sizes],
            character_count=sizes[-1],
            is_continuation=continues_conversation(request.chat),
        )

    def prompt_token_estimate(self, request: pb.GenerateRequest) -> int:
        """Estimates a prompt's tokens while the model is not known."""
        return ModelStatistics().token_count(prefix_sizes(request)[-1])

    def model_state(self, trip: Trip, model: Model) -> ModelState:
        """Says whether and how soon a model could answer."""
        live = self._workers.live(trip.model)
        described = [known for one in live for known in one.registration.models if known.name == trip.model]
        best = self._best(trip)
        return ModelState(
            is_live=bool(live) or self._residency.can_come(trip.model),
            sees_images=any(known.sees_images for known in described),
            ignores_tools=bool(described) and all(known.ignores_tools for known in described),
            context_length=model.context_length,
            first_token_seconds=expect(best, self._gate.need(trip)).first_token_seconds
            if best
            else self._residency.seconds_to_load(trip.model),
        )

    async def estimate(self, trip: Trip, request: pb.GenerateRequest) -> router_pb2.EstimateResponse:
        """Estimates what a request would cost, with its prompt tokenized where a worker does that."""
        await self._look_up(trip)
        if request.HasField("chat"):
            with suppress(grpc.aio.AioRpcError):
                asked = pb.RenderPromptRequest(model=trip.model, chat=request.chat)
                rendered = await self.call(trip, "RenderPrompt", asked)
                trip.prompt_token_count = len(rendered.token_ids)
        best = self._best(trip)
        if best is None:
            raise nobody(trip)
        need = self._gate.need(trip)
        wait = expect(best, need)
        cached = min(best.cached_token_count, need.prompt_token_count)
        return router_pb2.EstimateResponse(
            model=trip.model,
            worker_id=best.worker_id,
            prompt_token_count=need.prompt_token_count,
            is_tokenized=trip.prompt_token_count > 0,
            cached=[router_pb2.CachedTokens(tier="worker", token_count=cached)],
            prefill_token_count=need.prompt_token_count - cached,
            queue_seconds=wait.queue_seconds,
            prefill_seconds=wait.prefill_seconds,
            queue_position=self._gate.waiting_counts().get(trip.model, 0),
        )

    def _best(self, trip: Trip) -> Candidate | None:
        candidates = [worker.candidate(trip) for worker in self._gate.candidates(trip).values()]
        return next(iter(ranked(candidates, self._gate.need(trip))), None)

    async def call(self, trip: Trip, method: str, request: Any) -> Any:
        """Answers a call with a single response, which needs no slot."""
        while True:
            while not (candidates := self._gate.candidates(trip)):
                self._patience.check(trip)
                await self._workers.wait_for_change(PROGRESS_SECONDS)
            best = ranked([worker.candidate(trip) for worker in candidates.values()], Need())[0]
            worker = candidates[best.worker_id]
            try:
                return await getattr(worker.stub, method)(request, timeout=trip.timeout_seconds)
            except grpc.aio.AioRpcError as error:
                self._failed(trip, worker, error)

    async def _look_up(self, trip: Trip) -> None:
        """Asks who knows the conversation, where there is a choice and this router has not seen it itself."""
        if len(self._workers.live(trip.model)) > 1:
            await self.look_up(trip)

    async def look_up(self, trip: Trip) -> None:
        """Asks who knows a conversation that this router has not seen itself; once for each trip."""
        if trip.is_looked_up or not (trip.is_continuation and self._workers.is_cache_reachable):
            return
        live = self._workers.live(trip.model)
        if live and not any(worker.knows_more_than_the_root(trip) for worker in live):
            trip.is_looked_up = True
            trip.matched_elsewhere = await self._lineages.knowing(trip.hashes)

    async def _next_worker(self, trip: Trip, ticket: Ticket) -> RoutedWorker | None:
        """Waits for a moment to be let through; raises when there is nothing left to wait for."""
        if not ticket.passed.done():
            if not self._gate.candidates(trip):
                self._patience.check(trip)
            await asyncio.wait({ticket.passed}, timeout=PROGRESS_SECONDS)
            self._gate.dispatch(trip.model)  # what other routers' requests leave free shows in reports alone
        return ticket.passed.result() if ticket.passed.done() else None

    def _progress(self, trip: Trip, ticket: Ticket) -> pb.GenerateResponse:
        if not self._workers.live(trip.model):
            return pb.GenerateResponse(progress=self._residency.progress(trip.model))
        position = self._gate.position(ticket)
        return pb.GenerateResponse(progress=pb.Progress(phase=pb.PHASE_QUEUED, queue_position=position))

    def _passed(self, trip: Trip, worker: RoutedWorker, event: pb.GenerateResponse) -> pb.GenerateResponse | None:
        """Notes an event in the books of worker, model and key, and returns what of it the client gets to see."""
        if event.HasField("delta"):
            worker.note_prefilled(trip)
            worker.breaker.succeed()
        elif event.HasField("admitted"):
            self._gate.statistics[trip.model].observe_prompt(trip.character_count, event.admitted.prompt_token_count)
        passed = trip.passed(event)
        if trip.is_finished and passed is not None:
            self._lineages.record(worker.worker_id, trip.hashes, prompt_token_count=trip.prompt_token_count)
            self._gate.note_finish(trip, event.finish.usage)
        return passed

    @contextmanager
    def _attempt(self, trip: Trip, worker: RoutedWorker) -> Iterator[None]:
        started = trip.attempt_started_at = time.monotonic()
        self._metrics.worker_wait_seconds.labels(trip.model).observe(started - trip.arrived_at)
        if trip.attempt_count:
            self._metrics.retries.labels(trip.model).inc()
        _log.debug("request_sent", request_id=trip.request_id, worker_id=worker.worker_id, attempt=trip.attempt_count)
        try:
            with self._metrics.open_requests.labels(trip.model).track_inprogress():
                yield
        finally:
            self._gate.release(trip, worker)

    def _failed(self, trip: Trip, worker: RoutedWorker, error: grpc.aio.AioRpcError) -> None:
        """Returns if the request may be tried again, else raises what the client is told."""
        if trip.is_finished:  # the answer is whole; how the call ended does not matter any more
            return
        failure = judge(error, is_resumed=trip.has_delta)
        if failure is Failure.LOST:
            self._lost(trip, worker, error.code().name)
        elif failure is Failure.FINAL or not trip.delivered.can_resume:
            if error.code() is grpc.StatusCode.INTERNAL:
                worker.note_failure()
            raise error
        else:
            trip.refusals[worker.worker_id] = error

    def _lost(self, trip: Trip, worker: RoutedWorker, cause: str) -> None:
        self._workers.mark_lost(worker)
        trip.lose()
        _log.warning(
            "attempt_failed", request_id=trip.request_id, worker_id=worker.worker_id, cause=cause,
            delivered_token_count=len(trip.delivered.token_ids),
        )  # fmt: skip
        if not trip.delivered.can_resume:
            raise WorkerLost("The worker stopped in the middle of its answer.", retry_after_seconds=1.0)
        if trip.lost_count >= MAX_LOST_IN_A_ROW:
            raise WorkerLost(
                f"{trip.lost_count} workers stopped while they worked on this request.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        if trip.has_delta:
            self.migration_count += 1
            self._metrics.migrations.labels(trip.model).inc()
