"""Where requests wait for a worker: lets the next one in line through as soon as a slot is free."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.router.admission import in_line, is_background, refused, retry_after_seconds
from services.router.placement import Need, choose
from services.router.shares import Shares
from services.router.statistics import ModelStatistics
from services.router.trip import Trip
from services.router.worker import RoutedWorker
from services.router.workers import WorkerDirectory
from services.shared.errors import Overloaded

_TRIES: Final = 8
"""Requests that may look for a worker in one round, where those before them wait for a certain one."""


class Ticket:
    """A place in the line."""

    def __init__(self, trip: Trip) -> None:
        self.trip = trip
        self.passed: asyncio.Future[RoutedWorker] = asyncio.get_running_loop().create_future()

    @property
    def request_class(self) -> "pb.RequestClass.ValueType":
        """The kind of request."""
        return self.trip.request_class

    @property
    def key_id(self) -> str:
        """Whose request it is."""
        return self.trip.key_id

    @property
    def arrived_at(self) -> float:
        """When it came to the router."""
        return self.trip.arrived_at

    @property
    def has_begun(self) -> bool:
        """Whether its answer has begun elsewhere."""
        return self.trip.has_begun


class Gate:
    """The lines of all models. A request that passed holds a slot until `release`."""

    def __init__(
        self, workers: WorkerDirectory, *, queue_size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._workers = workers
        self._queue_size = queue_size
        self._clock = clock
        self._waiting: dict[str, list[Ticket]] = defaultdict(list)
        self._choice_count = 0
        self.shares = Shares()
        self.statistics: dict[str, ModelStatistics] = defaultdict(ModelStatistics)
        self.make_room: Callable[[str], bool] = lambda _model: False
        """Asked for a slot of a model when someone has to wait; says whether one will be free."""
        workers.on_change = self.dispatch_all

    def waiting_counts(self) -> dict[str, int]:
        """How many requests wait, by model."""
        return {model: len(tickets) for model, tickets in self._waiting.items() if tickets}

    def position(self, ticket: Ticket) -> int:
        """How many requests go before one."""
        line = self._line(ticket.trip.model)
        return line.index(ticket) if ticket in line else 0

    @contextmanager
    def waiting(self, trip: Trip) -> Iterator[Ticket]:
        """Holds a place in the line until left; raises `Overloaded` if there is none."""
        ticket, line = Ticket(trip), self._waiting[trip.model]
        self._turn_away(line, ticket)
        line.append(ticket)
        try:
            self.dispatch(trip.model)
            yield ticket
        except BaseException:
            self._give_back(ticket)
            raise
        finally:
            with suppress(ValueError):
                line.remove(ticket)

    def dispatch_all(self) -> None:
        """Lets through whoever can start, of all models."""
        for model in list(self._waiting):
            self.dispatch(model)

    def dispatch(self, model: str) -> None:
        """Lets through whoever can start now, in the order of the line."""
        while (found := self._next(model)) is not None:
            ticket, worker = found
            self._waiting[model].remove(ticket)
            self._choice_count += 1
            worker.last_chosen = self._choice_count
            worker.open_request(ticket.trip)
            self._charge(ticket.trip)
            ticket.passed.set_result(worker)
        if self._waiting[model]:
            self.make_room(model)

    def release(self, trip: Trip, worker: RoutedWorker) -> None:
        """Gives a slot back."""
        worker.close_request(trip)
        self.dispatch_all()

    def note_finish(self, trip: Trip, usage: pb.Usage) -> None:
        """Learns from a finished request, and charges its key with what it really cost."""
        now = self._clock()
        self.statistics[trip.model].observe_request(now - trip.attempt_started_at, usage.completion_token_count)
        uncounted = usage.prompt_token_count - trip.charged_token_count if usage.prompt_token_count else 0
        self.shares.charge(trip.key_id, usage.completion_token_count + uncounted, now)

    def need(self, trip: Trip) -> Need:
        """What a request asks of a worker, as far as it can be estimated."""
        return Need(
            prompt_token_count=trip.prompt_token_estimate,
            request_seconds=self.statistics[trip.model].request_seconds,
            waited_seconds=self._clock() - trip.arrived_at,
            reserve=int(is_background(trip.request_class)),
        )

    def candidates(self, trip: Trip) -> dict[str, RoutedWorker]:
        """The workers that may take a request."""
        return {
            worker.worker_id: worker
            for worker in self._workers.live(trip.model)
            if worker.worker_id not in trip.refusals
        }

    def _next(self, model: str) -> tuple[Ticket, RoutedWorker] | None:
        for ticket in self._line(model)[:_TRIES]:
            workers = self.candidates(ticket.trip)
            chosen = choose([worker.candidate(ticket.trip) for worker in workers.values()], self.need(ticket.trip))
            if chosen is not None:
                return ticket, workers[chosen]
        return None

    def _turn_away(self, line: list[Ticket], newcomer: Ticket) -> None:
        unlucky = refused(line, newcomer, limit=self._queue_size, now=self._clock())
        if unlucky is None:
            return
        error = self._full(newcomer.trip.model, len(line))
        if unlucky is newcomer:
            raise error
        line.remove(unlucky)
        unlucky.passed.set_exception(error)

    def _full(self, model: str, count: int) -> Overloaded:
        slots = sum(known.slot_count for w in self._workers.live(model) for known in w.registration.models)
        seconds = retry_after_seconds(count, slot_count=slots, request_seconds=self.statistics[model].request_seconds)
        return Overloaded(
            f"{count} requests wait for the model {model!r} already. Try again later.", retry_after_seconds=seconds
        )

    def _give_back(self, ticket: Ticket) -> None:
        if not ticket.passed.done():
            ticket.passed.cancel()
        elif not ticket.passed.cancelled() and ticket.passed.exception() is None:
            self.release(ticket.trip, ticket.passed.result())

    def _charge(self, trip: Trip) -> None:
        if not trip.charged_token_count:  # an answer that goes on elsewhere is paid for
            trip.charged_token_count = trip.prompt_token_estimate
            self.shares.charge(trip.key_id, trip.charged_token_count, self._clock())

    def _line(self, model: str) -> list[Ticket]:
        waiting, now = self._waiting[model], self._clock()
        used = {key_id: self.shares.used(key_id, now) for key_id in {ticket.key_id for ticket in waiting}}
        return in_line(waiting, used, now)
