"""The engine: one thread that owns the `llama_context` and works on all requests in common steps.

A step: take requests → drop cancelled → admit → plan (pure) → `llama_decode` → sample → emit → move parked state.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import BackendFailed, Overloaded
from services.worker.blocks import HashedTokens
from services.worker.call_guard import MAX_REWINDS, hold_to_offered_tools, rewind_point
from services.worker.compute_lock import ComputeLock
from services.worker.cost import StepCost, total
from services.worker.finish import finish_message
from services.worker.generation import NO_SEQUENCE, Event, Generation
from services.worker.kv_pool import KvPool
from services.worker.llama import LlamaContext, LlamaModel, NoFreeCell, Row
from services.worker.parking import Match
from services.worker.sampling import token_logprob
from services.worker.scheduler import Chunk, StepLimits, in_order, plan_step, shared_length, waits_for_sibling
from services.worker.slots import SlotBook, SlotState
from services.worker.speculation import MOST_PER_STEP
from services.worker.speculation.draft_model import DraftModel
from services.worker.speculation.speculator import Guesses, Speculator
from services.worker.warm_up import warm_up

_log = structlog.get_logger(__name__)
_UNSHARED_STEP_SECONDS: Final = 2.0  # bounds how long a new or cancelled request waits for the step in progress
_SHARED_STEP_SECONDS: Final = 1.0  # the same where others wait: another worker, or anyone behind a title

T = TypeVar("T")
Post = Callable[[list[tuple[Generation, Event]]], None]


@dataclass(frozen=True)
class EngineLimits:
    """What the engine may do at once."""

    slots: int
    queue_size: int
    batch_tokens: int
    step_budget_seconds: float


@dataclass(frozen=True)
class EngineLoad:
    """How busy the engine is."""

    running_count: int
    waiting_count: int
    used_cells: int
    cell_count: int
    prefill_tokens_per_second: float


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
        self._model, self._context, self._pool = model, context, pool
        self._lock, self._limits, self._post = lock, limits, post
        self._cost = StepCost()
        self._speculator = Speculator(
            self._cost, most_per_step=max(0, min(MOST_PER_STEP, limits.batch_tokens - limits.slots)),
            step_seconds=limits.step_budget_seconds, draft_model=draft_model,
        )  # fmt: skip
        self._inbox: queue.SimpleQueue[Generation | Callable[[], None] | None] = queue.SimpleQueue()
        self._slots = SlotBook(pool.sequence_count)
        self._waiting: list[Generation] = []
        self._running: list[Generation] = []
        self._events: list[tuple[Generation, Event]] = []
        self._released_count = 0
        self._open_count = 0
        self._open_count_guard = threading.Lock()
        self._hangs_at: float | None = None
        self._is_warm: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Starts the thread, which measures a few steps first; returns when it takes requests."""
        self._thread.start()
        self._is_warm.result()

    def stop(self) -> None:
        """Ends the thread after its step."""
        self._inbox.put(None)
        self._thread.join()

    def submit(self, generation: Generation) -> None:
        """Queues a request, or raises `Overloaded`."""
        with self._open_count_guard:
            if self._open_count >= self._limits.slots + self._limits.queue_size:
                raise Overloaded(f"The queue is full ({self._limits.queue_size} requests wait).", retry_after_seconds=5)
            self._open_count += 1
        self._inbox.put(generation)

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

        self._inbox.put(run)
        return done

    @property
    def slots(self) -> SlotBook:
        """Which conversation each sequence stands for; only for work that the engine's thread does."""
        return self._slots

    def slot_states(self) -> list[SlotState]:
        """What each sequence does; only for work that the engine's thread does."""
        return self._slots.states({one.sequence_id: one for one in self._running})

    def load(self) -> EngineLoad:
        """Reports how busy the engine is."""
        return EngineLoad(
            len(self._running), max(0, self._open_count - len(self._running)), self._pool.used_cells,
            self._pool.cell_count, self._cost.prefill_tokens_per_second,
        )  # fmt: skip

    @property
    def guesses(self) -> Guesses:
        """How many tokens were guessed, and how many of them were right, since the start."""
        return self._speculator.guesses

    @property
    def is_hung(self) -> bool:
        """Whether the step in progress takes far longer than such steps do."""
        hangs_at = self._hangs_at
        return hangs_at is not None and time.monotonic() > hangs_at

    def _run(self) -> None:
        try:
            self._warm_up()
        except Exception as error:
            self._is_warm.set_exception(error)
            return
        self._is_warm.set_result(None)
        while self._take_requests():
            try:
                self._step()
            except Exception as error:
                _log.exception("engine_step_failed", exc_info=error)
                self._fail_running()
            self._flush()

    def _warm_up(self) -> None:
        """Measures in this thread: another one that has computed would slow it down (`passing_thread.py`)."""
        warm_up(
            self._context, self._pool, self._lock, self._cost,
            most_tokens=self._limits.batch_tokens, most_outputs=self._limits.slots + MOST_PER_STEP,
        )  # fmt: skip
        self._speculator.warm_up()

    def _step(self) -> None:
        self._drop_cancelled()
        self._finish_complete()
        self._admit()
        plan = self._plan()
        outputs = self._decode(plan)
        for chunk, chunk_outputs in zip(plan, outputs, strict=True):
            self._advance(chunk, chunk_outputs)
        self._flush()  # moving state must not delay what was said
        self._pool.housekeeping(
            is_busy=bool(self._running), is_streaming=self._is_streaming,
            prefill_rate=self._cost.prefill_tokens_per_second,
        )  # fmt: skip

    @property
    def _is_streaming(self) -> bool:
        return any(one.is_decoding for one in self._running)

    def _take_requests(self) -> bool:
        """Takes what has arrived, waiting if there is nothing else to do; False means stop."""
        must_wait = not self._running and not self._waiting and not self._pool.is_untidy
        while must_wait or not self._inbox.empty():
            generation = self._inbox.get()
            if generation is None:
                return False
            if isinstance(generation, Generation):
                self._waiting.append(generation)
            else:
                generation()
            must_wait = False
        return True

    def _drop_cancelled(self) -> None:
        for generation in [one for one in (*self._running, *self._waiting) if one.is_cancelled]:
            self._end(generation)

    def _finish_complete(self) -> None:
        """Ends resumed answers whose last token was generated before their worker was lost."""
        for generation in [one for one in self._waiting if one.is_complete]:
            is_stopped = generation.answer.is_done
            self._finish(generation, pb.FINISH_REASON_STOP if is_stopped else pb.FINISH_REASON_LENGTH)

    def _admit(self) -> None:
        """Gives free slots to those who should go on first, leaving siblings of a running prompt to wait for it."""
        now = time.monotonic()
        rate = self._cost.prefill_tokens_per_second
        for generation in in_order(self._waiting, now=now, prefill_rate=rate):
            if len(self._running) >= self._limits.slots or not self._try_start(generation, now):
                break
        for position, generation in enumerate(self._waiting):
            self._report_progress(generation, pb.PHASE_QUEUED, position)

    def _try_start(self, generation: Generation, now: float) -> bool:
        """Starts a request unless cells are missing (False); one that must wait for state is not (True)."""
        if _still_waits(generation):  # comparing prompts takes a millisecond: not at every step
            return True
        if self._running and generation.blocked_at == self._released_count:
            return False
        key = generation.cache_key = generation.cache_key or self._pool.key(generation.tokens)
        computed = [(one.sequence_id, one.tokens, one.computed_count) for one in self._running]
        match = self._pool.best_match(key, computed)
        promised, sibling = max(
            ((self._promised_count(generation, one), one) for one in self._running),
            key=lambda promise: promise[0], default=(0, None),
        )  # fmt: skip
        known_count = self._pool.stored_length(key, match)
        generation.has_waited = waits_for_sibling(known_count, promised, has_waited=generation.has_waited)
        if generation.has_waited:
            generation.sibling, generation.promised_count = sibling, promised
            return True
        needed = len(generation.tokens) - (match.length if match else 0) + 1
        if self._running and self._pool.room_beside(match) < needed:
            generation.blocked_at = self._released_count
            return False
        if self._fetch(generation, key, match, now):
            return True
        match = self._pool.best_match(key, computed)
        sources = self._pool.sources(match)
        generation.sequence_id = self._pool.open(match, now=now)
        generation.computed_count = match.length if match else 0
        generation.cache_key = None
        if generation.started_at is None:
            generation.started_at, generation.cached = now, sources
        self._slots.begin(generation.sequence_id, generation.request_id)
        self._waiting.remove(generation)
        self._running.append(generation)
        return True

    def _fetch(self, generation: Generation, key: HashedTokens, match: Match | None, now: float) -> bool:
        """Brings state back into cells for a request; True if there is more to come."""
        started = time.monotonic()
        must_wait = self._pool.fetch(key, match, now=now, is_streaming=self._is_streaming)
        generation.restore_seconds += time.monotonic() - started
        return must_wait

    def _promised_count(self, waiting: Generation, running: Generation) -> int:
        if running.is_decoding or not self._pool.forks:
            return 0
        return min(shared_length(waiting.tokens, running.tokens), len(waiting.tokens) - 1)

    def _plan(self) -> list[Chunk[Generation]]:
        """Plans a step whose tokens all have cells; who came last gives its cells up if there are too few."""
        while self._running:
            plain = self._plan_step({})
            drafts = self._speculator.drafts(plain) if self._pool.forks else {}
            if drafts and self._has_room(plan := self._plan_step(drafts)):
                return plan
            if self._has_room(plain):
                return plain
            self._preempt(max(self._running, key=lambda one: one.arrived_at))
        return []

    def _plan_step(self, drafts: Mapping[Generation, Sequence[int]]) -> list[Chunk[Generation]]:
        limits = StepLimits(self._limits.batch_tokens, self._step_seconds())
        plan = plan_step(self._running, now=time.monotonic(), limits=limits, cost=self._cost, drafts=drafts)
        return [_up_to_checkpoint(chunk) for chunk in plan]

    def _has_room(self, plan: Sequence[Chunk[Generation]]) -> bool:
        return self._pool.make_room(sum(chunk.token_count for chunk in plan))

    def _step_seconds(self) -> float:
        if any(one.is_decoding for one in self._running):
            return self._limits.step_budget_seconds
        if self._lock.is_contended or all(one.is_batch for one in self._running):
            return _SHARED_STEP_SECONDS
        return _UNSHARED_STEP_SECONDS

    def _preempt(self, generation: Generation) -> None:
        """Takes the slot of a request, which continues later; its stream only pauses."""
        _log.info("request_preempted", request_id=generation.request_id)
        self._park(generation)
        self._released_count += 1
        self._speculator.release(generation)
        generation.sequence_id, generation.computed_count = NO_SEQUENCE, 0
        self._running.remove(generation)
        self._waiting.append(generation)

    def _decode(self, plan: Sequence[Chunk[Generation]]) -> list[range]:
        """Computes a plan; returns the output indices of each chunk."""
        if not plan:
            return []
        rows = [_row(chunk) for chunk in plan]
        shape = total(row.shape for row in rows)
        with self._lock.held():
            started = time.monotonic()
            self._hangs_at = started + self._cost.hang_seconds(shape)
            try:
                outputs = self._decode_rows(rows)
                self._context.synchronise()
            finally:
                self._hangs_at = None
            self._cost.observe(shape, time.monotonic() - started)
        for row in rows:
            self._pool.extend(row.sequence_id, len(row.tokens))
        return outputs

    def _decode_rows(self, rows: Sequence[Row]) -> list[range]:
        try:
            return self._context.decode(rows)
        except NoFreeCell:  # llama.cpp needs more than we counted: give it all that is not running
            self._pool.drop_parked()
            return self._context.decode(rows)

    def _advance(self, chunk: Chunk[Generation], outputs: range) -> None:
        generation = chunk.generation
        generation.computed_count += chunk.known_count
        if generation.computed_count in generation.checkpoints:
            self._pool.checkpoint(generation.sequence_id, generation.tokens[: generation.computed_count])
        if generation.pending_count:
            self._report_progress(generation, pb.PHASE_PREFILL, generation.computed_count)
        else:
            self._take_tokens(generation, chunk.draft, outputs)

    def _take_tokens(self, generation: Generation, draft: Sequence[int], outputs: range) -> None:
        """Samples a token behind the known ones, and another behind each guess that turns out to be right."""
        generation.guessed_count = len(draft)
        generation.speculation.begin_draft(len(draft))
        for guess, output in zip((*draft, None), outputs, strict=True):
            length = len(generation.tokens)
            was_right = self._sample(generation, output, guess)
            if not (was_right and generation.is_running and len(generation.tokens) > length):
                break
            generation.computed_count += 1
            generation.guessed_count -= 1
        if draft:
            self._speculator.observe(generation)
        self._drop_guesses(generation)

    def _drop_guesses(self, generation: Generation) -> None:
        """Takes back the cells of guesses that were not confirmed."""
        if generation.guessed_count:
            self._pool.truncate(generation.sequence_id, generation.computed_count)
            generation.guessed_count = 0

    def _sample(self, generation: Generation, output: int, guess: int | None) -> bool:
        """Chooses the next token and does what it says; returns whether it is the one that was guessed."""
        logits = self._context.logits(output)
        token = generation.sampler.sample(logits)
        was_right = token == guess
        if was_right:
            generation.speculation.confirm()
        if generation.first_token_at is None:
            generation.first_token_at = time.monotonic()
        if token in self._model.end_tokens:
            self._finish(generation, pb.FINISH_REASON_STOP)
            return was_right
        logprob = None
        if generation.top_logprobs is not None:
            logprob = token_logprob(logits, token, top_count=generation.top_logprobs, piece=self._model.piece)
        generation.tokens.append(token)
        self._emit_deltas(generation, generation.answer.feed(token, self._model.piece(token), logprob))
        if generation.call_grammar:
            hold_to_offered_tools(generation)
            self._rewind_misnamed_call(generation)
        if generation.answer.is_done:
            self._finish(generation, pb.FINISH_REASON_STOP)
        elif generation.generated_count >= generation.max_tokens:
            self._finish(generation, pb.FINISH_REASON_LENGTH)
        return was_right

    def _rewind_misnamed_call(self, generation: Generation) -> None:
        """Takes an answer back to where it began to call a tool that was not offered; nothing of it was sent yet."""
        misnamed = generation.answer.misnamed_call
        if not misnamed or generation.rewind_count >= MAX_REWINDS or not self._pool.forks:
            return
        generated = generation.tokens[generation.prompt_token_count :]
        point = rewind_point([self._model.piece(token) for token in generated], misnamed)
        if point is None:
            return
        kept_count, written = point
        generation.rewind(kept_count, self._model.piece)
        self._pool.truncate(generation.sequence_id, generation.computed_count)
        generation.guessed_count = 0
        generation.sampler.constrain(generation.call_grammar, written)
        _log.info("misnamed_call_rewound", request_id=generation.request_id, token_count=len(generated) - kept_count)

    def _finish(self, generation: Generation, reason: "pb.FinishReason.ValueType") -> None:
        self._emit_deltas(generation, generation.answer.finish(ended_by_model=reason == pb.FINISH_REASON_STOP))
        if reason == pb.FINISH_REASON_STOP and generation.answer.has_tool_calls:
            reason = pb.FINISH_REASON_TOOL_CALLS
        self._emit(generation, pb.GenerateResponse(finish=finish_message(generation, reason, now=time.monotonic())))
        self._end(generation)

    def _end(self, generation: Generation) -> None:
        """Frees what a request held; its KV state stays parked."""
        if generation.is_running:
            self._drop_guesses(generation)
            self._released_count += 1
            self._speculator.release(generation)
            self._running.remove(generation)
            if generation.keeps_state:
                self._park(generation)
            else:
                self._slots.clear(generation.sequence_id)
                self._pool.close(generation.sequence_id)
            generation.sequence_id = NO_SEQUENCE
        else:
            self._waiting.remove(generation)
        generation.sampler.close()
        with self._open_count_guard:
            self._open_count -= 1

    def _park(self, generation: Generation) -> None:
        computed = generation.tokens[: generation.computed_count]
        self._slots.end(generation.sequence_id, computed)
        self._pool.park(generation.sequence_id, computed, now=time.monotonic())

    def _fail_running(self) -> None:
        """After a failed step nothing in the cache can be trusted: ends what ran and starts from empty."""
        for generation in list(self._running):
            self._emit(generation, BackendFailed("The engine failed; the server's log says why."))
            generation.keeps_state = False
            self._end(generation)
        self._pool.drop_parked()
        self._slots.clear_all()
        self._context.clear()

    def _report_progress(self, generation: Generation, phase: "pb.Phase.ValueType", value: int) -> None:
        if generation.last_progress == (phase, value) or generation.first_token_at is not None:
            return
        generation.last_progress = (phase, value)
        progress = pb.Progress(phase=phase, total_token_count=generation.prompt_token_count)
        if phase == pb.PHASE_QUEUED:
            progress.queue_position = value
        else:
            progress.processed_token_count = value
        self._emit(generation, pb.GenerateResponse(progress=progress))

    def _emit_deltas(self, generation: Generation, deltas: Sequence[pb.Delta]) -> None:
        for delta in deltas:
            self._emit(generation, pb.GenerateResponse(delta=delta))

    def _emit(self, generation: Generation, event: Event) -> None:
        self._events.append((generation, event))

    def _flush(self) -> None:
        if self._events:
            self._post(self._events)
            self._events = []


def _still_waits(generation: Generation) -> bool:
    sibling = generation.sibling
    if sibling and sibling.is_running and sibling.computed_count < generation.promised_count:
        return True
    generation.sibling = None
    return False


def _row(chunk: Chunk[Generation]) -> Row:
    generation = chunk.generation
    start = generation.computed_count
    tokens = [*generation.tokens[start : start + chunk.known_count], *chunk.draft]
    return Row(generation.sequence_id, start, tokens, chunk.output_count)


def _up_to_checkpoint(chunk: Chunk[Generation]) -> Chunk[Generation]:
    generation = chunk.generation
    end = generation.computed_count + chunk.known_count
    stop = next((length for length in generation.checkpoints if generation.computed_count < length < end), end)
    return chunk if stop == end else Chunk(generation, stop - generation.computed_count)
