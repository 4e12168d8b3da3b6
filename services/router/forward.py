"""Sends a request to a worker and its answer back. A worker that is lost is replaced: unseen before the first token, as
a pause behind it, for the next one continues the answer."""

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import structlog

from localcode.inference.v1 import inference_pb2 as pb
from services.router.lineages import Lineages
from services.router.metrics import RouterMetrics
from services.router.placement import choose
from services.router.trip import Failure, Trip, judge
from services.router.worker import RoutedWorker
from services.router.workers import WorkerDirectory
from services.shared.errors import NoWorker, ServiceError, WorkerLost

MAX_LOST_IN_A_ROW: Final = 3
"""Workers that may be lost without a new token: a request that kills workers must not kill all of them."""
RETRY_AFTER_SECONDS: Final = 5.0
PROGRESS_SECONDS: Final = 1.0
_LOADING: Final = pb.GenerateResponse(progress=pb.Progress(phase=pb.PHASE_LOADING))
_log = structlog.get_logger(__name__)


class Forwarder:
    """Carries requests to workers."""

    def __init__(
        self, workers: WorkerDirectory, lineages: Lineages, metrics: RouterMetrics, *, worker_wait_seconds: float,
        resume_wait_seconds: float = 60.0,
    ) -> None:  # fmt: skip
        self._workers = workers
        self._lineages = lineages
        self._metrics = metrics
        self._worker_wait_seconds = worker_wait_seconds
        self._resume_wait_seconds = resume_wait_seconds
        self._choice_count = 0
        self.migration_count = 0

    async def generate(self, trip: Trip, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse]:
        """Streams the answer. Cancelling the trip cancels the worker's call."""
        while not trip.is_finished:
            while (worker := await self._choose(trip)) is None:
                await self._wait(trip)
                if trip.is_admitted:
                    yield _LOADING
            with self._attempt(trip, worker):
                call = trip.call = worker.stub.Generate(trip.begin_attempt(request), timeout=trip.timeout_seconds)
                try:
                    async for event in call:
                        if (passed := trip.passed(event)) is not None:
                            yield passed
                    if not trip.is_finished:
                        self._lost(trip, worker, "ended its answer without a finish")
                except grpc.aio.AioRpcError as error:
                    self._failed(trip, worker, error)
                finally:
                    call.cancel()
            if trip.is_finished:
                self._lineages.record(worker.worker_id, trip.hashes, prompt_token_count=trip.prompt_token_count)

    async def call(self, trip: Trip, method: str, request: Any) -> Any:
        """Answers a call with a single response."""
        while True:
            while (worker := await self._choose(trip)) is None:
                await self._wait(trip)
            with self._attempt(trip, worker):
                trip.attempt_count += 1
                try:
                    return await getattr(worker.stub, method)(request, timeout=trip.timeout_seconds)
                except grpc.aio.AioRpcError as error:
                    self._failed(trip, worker, error)

    async def _choose(self, trip: Trip) -> RoutedWorker | None:
        knowing = await self._knowing(trip)
        workers = {
            worker.worker_id: worker
            for worker in self._workers.live(trip.model)
            if worker.worker_id not in trip.refusals
        }
        candidates = [worker.candidate(trip.model) for worker in workers.values()]
        chosen = choose(candidates, knows_conversation=knowing)
        if chosen is None:
            return None
        self._choice_count += 1
        workers[chosen].last_chosen = self._choice_count
        return workers[chosen]

    async def _knowing(self, trip: Trip) -> "list[str] | tuple[str, ...]":
        has_choice = len(self._workers.live(trip.model)) > 1
        if not (has_choice and trip.is_continuation and self._workers.is_cache_reachable):
            return ()
        return tuple(await self._lineages.knowing(trip.hashes))

    async def _wait(self, trip: Trip) -> None:
        """Waits for a worker to appear, for a moment; raises when there is nothing left to wait for."""
        if trip.refusals and not trip.has_delta:
            raise next(iter(trip.refusals.values()))
        trip.refusals.clear()  # an answer that has begun waits for a place at any worker
        now = time.monotonic()
        if trip.waiting_since is None:
            trip.waiting_since = now
        limit = self._resume_wait_seconds if trip.has_delta else self._worker_wait_seconds
        remaining = trip.waiting_since + limit - now
        if remaining <= 0:
            raise _nobody(trip)
        await self._workers.wait_for_change(min(remaining, PROGRESS_SECONDS))

    @contextmanager
    def _attempt(self, trip: Trip, worker: RoutedWorker) -> Iterator[None]:
        waited = 0.0 if trip.waiting_since is None else time.monotonic() - trip.waiting_since
        self._metrics.worker_wait_seconds.labels(trip.model).observe(waited)
        if trip.attempt_count:
            self._metrics.retries.labels(trip.model).inc()
        _log.debug("request_sent", request_id=trip.request_id, worker_id=worker.worker_id, attempt=trip.attempt_count)
        with worker.open_request(), self._metrics.open_requests.labels(trip.model).track_inprogress():
            yield

    def _failed(self, trip: Trip, worker: RoutedWorker, error: grpc.aio.AioRpcError) -> None:
        """Returns if the request may be tried again, else raises what the client is told."""
        if trip.is_finished:  # the answer is whole; how the call ended does not matter any more
            return
        failure = judge(error, is_resumed=trip.has_delta)
        if failure is Failure.LOST:
            self._lost(trip, worker, error.code().name)
        elif failure is Failure.FINAL or not trip.delivered.can_resume:
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


def _nobody(trip: Trip) -> ServiceError:
    if trip.has_delta:
        return WorkerLost(
            f"The worker stopped in the middle of its answer, and no other one of {trip.model!r} could go on with it.",
            retry_after_seconds=1.0,
        )
    return NoWorker(
        f"No worker runs the model {trip.model!r} now. It may be loading; try again in a moment.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
