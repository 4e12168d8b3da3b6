"""Who gets a slot, and with which state that others have computed."""

import time

import structlog

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.blocks import HashedTokens
from services.worker.cost import StepCost
from services.worker.generation import Generation
from services.worker.kv_pool import KvPool
from services.worker.outbox import Outbox
from services.worker.parking import Match
from services.worker.requests import Requests
from services.worker.scheduler import in_order, shared_length, waits_for_sibling

_log = structlog.get_logger(__name__)


class Admission:
    """Starts waiting requests on what cells and store hold of their prompts. Only the engine thread uses it."""

    def __init__(self, requests: Requests, pool: KvPool, cost: StepCost, outbox: Outbox, *, slots: int) -> None:
        self._requests, self._pool, self._cost, self._outbox = requests, pool, cost, outbox
        self._slots = slots

    def admit(self) -> None:
        """Gives free slots to those who should go on first, leaving siblings of a running prompt to wait for it."""
        if not self._requests.waiting:
            return
        now = time.monotonic()
        for generation in in_order(self._requests.waiting, now=now, prefill_rate=self._cost.prefill_tokens_per_second):
            if not self._starts(generation, now):
                break
        for position, generation in enumerate(self._requests.waiting):
            self._outbox.report_progress(generation, pb.PHASE_QUEUED, position)

    def _starts(self, generation: Generation, now: float) -> bool:
        """Starts a request, if need be in the place of one that nobody waits for: that one goes on later."""
        while self._requests.running_count >= self._slots or not self._try_start(generation, now):
            batch = None if _still_waits(generation) else self._yielding(generation, now)
            if batch is None:
                return False
            _log.info("request_preempted", request_id=batch.request_id)
            self._requests.preempt(batch)
        return True

    def _yielding(self, generation: Generation, now: float) -> Generation | None:
        rate = self._cost.prefill_tokens_per_second
        batches = [one for one in self._requests.running if one.is_batch and not generation.is_batch]
        behind = [one for one in batches if in_order((one, generation), now=now, prefill_rate=rate)[0] is generation]
        return max(behind, key=lambda one: one.arrived_at, default=None)

    def _try_start(self, generation: Generation, now: float) -> bool:
        """Starts a request unless cells are missing (False); one that must wait for state is not (True)."""
        if _still_waits(generation):  # comparing prompts takes a millisecond: not at every step
            return True
        running = self._requests.running
        if running and generation.blocked_at == self._requests.released_count:
            return False
        key = self._key(generation)
        computed = [(one.sequence_id, one.tokens, one.computed_count) for one in running]
        match = self._pool.best_match(key, computed)
        if self._waits_for_sibling(generation, self._pool.stored_length(key, match)):
            return True
        needed = len(generation.tokens) - (match.length if match else 0) + 1
        if running and self._pool.room_beside(match) < needed:
            generation.blocked_at = self._requests.released_count
            return False
        is_first = not running
        if is_first:
            self._pool.clear_the_way([*self._matches(beside=generation, now=now), *([match] if match else [])])
            match = self._pool.best_match(key, computed)  # what can't be saved is dropped
        if self._fetch(generation, key, match, now):
            return True
        match = self._pool.best_match(key, computed)
        sources = self._pool.sources(match)
        self._requests.start(generation, self._pool.open(match, now=now), match.length if match else 0)
        if is_first and not self._requests.waiting:  # it holds what it shares itself now
            self._pool.clear_the_way()
        generation.cache_key = None
        if generation.started_at is None:
            generation.started_at, generation.cached = now, sources
        return True

    def _key(self, generation: Generation) -> HashedTokens:
        generation.cache_key = generation.cache_key or self._pool.key(generation.tokens)
        return generation.cache_key

    def _matches(self, *, beside: Generation, now: float) -> list[Match]:
        """What others who may start now share with parked sequences."""
        waiting = in_order(self._requests.waiting, now=now, prefill_rate=self._cost.prefill_tokens_per_second)
        others = [one for one in waiting if one is not beside][: self._slots - 1]
        found = [self._pool.best_match(self._key(one), ()) for one in others]
        return [match for match in found if match]

    def _fetch(self, generation: Generation, key: HashedTokens, match: Match | None, now: float) -> bool:
        """Brings state back into cells for a request; true if there is more to come."""
        started = time.monotonic()
        must_wait = self._pool.fetch(key, match, now=now, is_streaming=self._requests.is_streaming)
        generation.restore_seconds += time.monotonic() - started
        return must_wait

    def _waits_for_sibling(self, generation: Generation, known_count: int) -> bool:
        """Whether a running prompt will soon have computed more of this one than is known now."""
        promised_count, sibling = max(
            ((self._promised_count(generation, one), one) for one in self._requests.running),
            key=lambda promise: promise[0], default=(0, None),
        )  # fmt: skip
        generation.has_waited = waits_for_sibling(known_count, promised_count, has_waited=generation.has_waited)
        if generation.has_waited:
            generation.sibling, generation.promised_count = sibling, promised_count
        return generation.has_waited

    def _promised_count(self, waiting: Generation, running: Generation) -> int:
        if running.is_decoding or not self._pool.forks or (running.is_batch and not waiting.is_batch):
            return 0  # batch work may rest for minutes behind others
        return min(shared_length(waiting.tokens, running.tokens), len(waiting.tokens) - 1)


def _still_waits(generation: Generation) -> bool:
    sibling = generation.sibling
    if sibling and sibling.is_running and sibling.computed_count < generation.promised_count:
        return True
    generation.sibling = None
    return False
