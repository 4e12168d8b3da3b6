"""How long a request waits for a worker of its model to appear, and what its client is told then."""

import time
from typing import Final

from services.router.residency import Residency
from services.router.trip import Trip
from services.router.workers import WorkerDirectory
from services.shared.errors import NoWorker, ServiceError, WorkerLost

RETRY_AFTER_SECONDS: Final = 5.0


class Patience:
    """Waits for workers that come by themselves, and longer for models that are loaded on demand."""

    def __init__(
        self, workers: WorkerDirectory, residency: Residency, *, worker_wait_seconds: float,
        resume_wait_seconds: float, load_wait_seconds: float,
    ) -> None:  # fmt: skip
        self._workers, self._residency = workers, residency
        self._worker_wait_seconds = worker_wait_seconds
        self._resume_wait_seconds = resume_wait_seconds
        self._load_wait_seconds = load_wait_seconds

    def check(self, trip: Trip) -> None:
        """Raises when no worker is left, or none came for too long; has a model loaded that someone waits for."""
        if trip.refusals and not trip.has_delta:
            raise next(iter(trip.refusals.values()))
        trip.refusals.clear()  # an answer that has begun waits for a place at any worker
        if self._workers.live(trip.model):
            return
        now = time.monotonic()
        if self._residency.can_come(trip.model) and now - trip.arrived_at < self._load_wait_seconds:
            self._residency.want(trip.model)
            trip.waiting_since = None
            return
        self._check_problem(trip)
        if trip.waiting_since is None:
            trip.waiting_since = now
        if now - trip.waiting_since >= (self._resume_wait_seconds if trip.has_delta else self._worker_wait_seconds):
            raise nobody(trip)

    def _check_problem(self, trip: Trip) -> None:
        model = self._residency.find(trip.model)
        if model is not None and model.problem:
            raise NoWorker(
                f"The model {trip.model!r} can't be loaded. {model.problem}", retry_after_seconds=RETRY_AFTER_SECONDS
            )


def nobody(trip: Trip) -> ServiceError:
    """The error of a request that nobody answers."""
    if trip.has_delta:
        return WorkerLost(
            f"The worker stopped in the middle of its answer, and no other one of {trip.model!r} could go on with it.",
            retry_after_seconds=1.0,
        )
    return NoWorker(
        f"No worker runs the model {trip.model!r} now. It may be loading; try again in a moment.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
