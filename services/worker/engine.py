"""The engine: one thread that owns the `llama_context` and works on all requests in common steps.

A step: take requests → drop cancelled → admit → plan (pure) → `llama_decode` → sample → emit → move parked state.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, TypeVar

import structlog

from services.shared.errors import BackendFailed, Overloaded
from services.worker.admission import Admission
from services.worker.advance import Advancer
from services.worker.compute_lock import ComputeLock, TurnWaits
from services.worker.cost import StepCost
from services.worker.generation import Generation
from services.worker.kv_pool import KvPool
from services.worker.llama import LlamaContext, LlamaModel
from services.worker.outbox import Outbox, Post, StreamInterval
from services.worker.planning import Planner
from services.worker.requests import Requests
from services.worker.slots import SlotBook, SlotState
from services.worker.speculation import MOST_PER_STEP
from services.worker.speculation.draft_model import DraftModel
from services.worker.speculation.speculator import Guesses, Speculator
from services.worker.step_runner import StepRunner
from services.worker.warm_up import warm_up

_REST_SECONDS: Final = 0.2
"""How often batch work asks whether the work of others before it is done: each time takes a moment from that work."""
T = TypeVar("T")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class EngineLimits:
    """What the engine may do at once."""

    slots: int
    queue_size: int
    batch_tokens: int
    step_budget_seconds: float
    stream_interval: StreamInterval = field(default_factory=StreamInterval)


@dataclass(frozen=True)
class EngineLoad:
    """How busy the engine is."""

    running_count: int
    waiting_count: int
    used_cells: int
    cell_count: int
    prefill_tokens_per_second: float
    parked_cells: int = 0


class Engine:
    """Generates for many requests at once. Public methods may be called from any thread."""

    def __init__(
        self,
        model: LlamaModel,
        context: LlamaContext,
        pool: KvPool,
        lock: ComputeLock,
        limits: EngineLimits,
        post: Post,
        draft_model: DraftModel | None = None,
    ) -> None:
        self._context, self._pool, self._lock, self._limits = context, pool, lock, limits
        self._draft_model = draft_model
        self._cost = StepCost()
        self._speculator = Speculator(
            self._cost, most_per_step=max(0, min(MOST_PER_STEP, limits.batch_tokens - limits.slots)),
            step_seconds=limits.step_budget_seconds, draft_model=draft_model,
        )  # fmt: skip
        self._outbox = Outbox(post, limits.stream_interval)
        self._requests = Requests(pool, self._speculator, at_most=limits.slots + limits.queue_size)
        self._admission = Admission(self._requests, pool, self._cost, self._outbox, slots=limits.slots)
        self._planner = Planner(
            self._requests, pool, self._cost, self._speculator, lock,
            batch_tokens=limits.batch_tokens, step_budget_seconds=limits.step_budget_seconds,
        )  # fmt: skip
        self._runner = StepRunner(context, pool, lock, self._cost)
        self._advancer = Advancer(self._requests, model, context, pool, self._speculator, self._outbox)
        self._stands_back = False
        self._is_warm: Future[None] = Future()
        self._has_failed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Starts the thread, which measures a few steps first; returns when it takes requests."""
        self._thread.start()
        self._is_warm.result()

    def stop(self) -> None:
        """Ends the thread after its step."""
        self._requests.stop()
        self._thread.join()

    def submit(self, generation: Generation) -> None:
        """Queues a request, or raises `Overloaded`."""
        if not self._requests.submit(generation):
            raise Overloaded(f"The queue is full ({self._limits.queue_size} requests wait).", retry_after_seconds=5)

    def cancel(self, generation: Generation) -> None:
        """Frees a request's slot at the next step. Cancelling one that has ended does nothing."""
        generation.is_cancelled = True

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Lets the engine's thread do something between two steps."""
        done: Future[T] = Future()

        def run() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(work())
                except Exception as error:
                    done.set_exception(error)

        self._requests.put(run)
        return done

    @property
    def slots(self) -> SlotBook:
        """Which conversation each sequence stands for; only for work that the engine's thread does."""
        return self._requests.slots

    def slot_states(self) -> list[SlotState]:
        """What each sequence does; only for work that the engine's thread does."""
        return self.slots.states({one.sequence_id: one for one in self._requests.running})

    def load(self) -> EngineLoad:
        """Reports how busy the engine is."""
        return EngineLoad(
            self._requests.running_count, self._requests.waiting_count, self._pool.used_cells,
            self._pool.cell_count, self._cost.prefill_tokens_per_second, self._pool.parked_cells,
        )  # fmt: skip

    @property
    def cost(self) -> StepCost:
        """What steps were learned to cost."""
        return self._cost

    @property
    def turn_waits(self) -> TurnWaits:
        """How long steps waited for those of other workers, since the start."""
        return self._lock.waits

    @property
    def guesses(self) -> Guesses:
        """How many tokens were guessed, and how many of them were right, since the start."""
        return self._speculator.guesses

    @property
    def is_hung(self) -> bool:
        """Whether no step will follow: the one in progress takes far longer than such do, or the thread failed."""
        is_draft_hung = self._draft_model is not None and self._draft_model.is_hung
        return self._has_failed or self._runner.is_hung or is_draft_hung

    def _run(self) -> None:
        try:
            self._warm_up()
        except Exception as error:
            self._is_warm.set_exception(error)
            return
        self._is_warm.set_result(None)
        try:
            self._work()
        except Exception as error:
            _log.critical("engine_failed", exc_info=error)
            self._has_failed = True

    def _work(self) -> None:
        while self._receive():
            try:
                self._step()
            except Exception as error:
                _log.exception("engine_step_failed", exc_info=error)
                self._fail_running()
            self._flush()

    def _receive(self) -> bool:
        """Waits where there is nothing to do, and for a while where others' work goes first; false means stop."""
        if self._requests.is_empty:
            self._lock.claim(is_urgent=False)
            return self._requests.receive(waits=not self._pool.is_untidy)
        return self._requests.receive(waits=self._stands_back, at_most_seconds=_REST_SECONDS)

    def _must_stand_back(self) -> bool:
        is_urgent = self._requests.are_urgent
        self._lock.claim(is_urgent=is_urgent)
        return not is_urgent and self._lock.is_claimed_by_others

    def _warm_up(self) -> None:
        """Measures in this thread: another one that has computed would slow it down (`passing_thread.py`)."""
        warm_up(
            self._context, self._pool, self._lock, self._cost,
            most_tokens=self._limits.batch_tokens, most_outputs=self._limits.slots + MOST_PER_STEP,
        )  # fmt: skip
        self._speculator.warm_up()

    def _step(self) -> None:
        self._flush()  # what waits does not wait for the prompt of a request that has come
        for generation in self._requests.cancelled:
            self._requests.end(generation)
        self._advancer.finish_complete()
        self._admission.admit()
        self._stands_back = self._must_stand_back()
        plan = [] if self._stands_back else self._planner.plan()
        outputs = self._runner.run(plan)
        for chunk, chunk_outputs in zip(plan, outputs, strict=True):
            self._advancer.advance(chunk, chunk_outputs)
        self._flush()  # moving state must not delay what was said
        self._pool.housekeeping(
            is_busy=bool(self._requests.running), is_streaming=self._requests.is_streaming,
            prefill_rate=self._cost.prefill_tokens_per_second,
        )  # fmt: skip

    def _flush(self) -> None:
        may_wait = self._requests.are_all_decoding and not self._lock.is_contended
        self._outbox.flush(may_wait=may_wait, stream_count=self._requests.running_count)

    def _fail_running(self) -> None:
        """After a failed step nothing in the cache can be trusted: ends what ran and starts from empty."""
        for generation in list(self._requests.running):
            self._outbox.add(generation, BackendFailed("The engine failed; the server's log says why."))
            generation.keeps_state = False
            self._requests.end(generation)
        self._pool.drop_parked()
        self.slots.clear_all()
        self._context.clear()
