"""What the next step computes: a plan that fits time, cells and checkpoints, with the guesses that pay."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from services.worker.compute_lock import ComputeLock
from services.worker.cost import StepCost
from services.worker.generation import Generation
from services.worker.kv_pool import KvPool
from services.worker.parked_sequences import PAUSE_SECONDS
from services.worker.requests import Requests
from services.worker.scheduler import Chunk, StepLimits, delay_seconds, plan_step, stands_back
from services.worker.speculation.speculator import Speculator

_UNSHARED_STEP_SECONDS: Final = 2.0  # bounds how long a new or cancelled request waits for the step in progress
_SHARED_STEP_SECONDS: Final = 1.0  # the same where others wait: another worker, or anyone behind a title
_SPARE_STEPS: Final = 32  # as long as a block of a large model takes to save in pauses that streams can bear
_log = structlog.get_logger(__name__)

Plan = list[Chunk[Generation]]


class Planner:
    """Plans the steps of an engine, whose thread alone uses it."""

    def __init__(
        self, requests: Requests, pool: KvPool, cost: StepCost, speculator: Speculator, lock: ComputeLock, *,
        batch_tokens: int, step_budget_seconds: float,
    ) -> None:  # fmt: skip
        self._requests, self._pool, self._cost, self._speculator = requests, pool, cost, speculator
        self._lock = lock
        self._batch_tokens, self._step_budget_seconds = batch_tokens, step_budget_seconds

    def plan(self) -> Plan:
        """Plans a step whose tokens all have cells; who came last gives its cells up if there are too few."""
        now = time.monotonic()
        plan = self._plan_within_cells(now)
        if seconds := delay_seconds(plan, now=now, cost=self._cost):
            for generation in self._requests.running:
                if not stands_back(generation, now=now):
                    generation.delayed_seconds += seconds
        return plan

    def _plan_within_cells(self, now: float) -> Plan:
        running = self._requests.running
        pause = PAUSE_SECONDS if self._requests.is_streaming else math.inf
        while running:
            plain = self._plan_step({})
            in_front = [chunk for chunk in plain if not stands_back(chunk.generation, now=now)] or plain
            drafts = self._speculator.drafts(in_front) if self._pool.forks else {}
            if drafts and self._has_room(plan := self._plan_step(drafts), pause):
                return plan
            if self._has_room(plain, pause):
                return plain
            if plain := self._smaller(plain):
                return plain
            latest = max(running, key=lambda one: (stands_back(one, now=now), one.arrived_at))
            _log.info("request_preempted", request_id=latest.request_id)
            self._requests.preempt(latest)
        return []

    def _smaller(self, plan: Plan) -> Plan:
        """What of a plan has cells while room is still being made for the rest, in the time that streams can wait."""
        if not self._pool.can_free_cells():
            return []
        decoding_count = sum(chunk.generation.is_decoding for chunk in plan)
        if not self._pool.make_room(decoding_count):  # these can't be put off
            return []
        spare = _SPARE_STEPS * decoding_count
        return self._plan_step({}, most_tokens=max(decoding_count, self._pool.free_cells - spare))

    def _plan_step(self, drafts: Mapping[Generation, Sequence[int]], *, most_tokens: int | None = None) -> Plan:
        tokens = self._batch_tokens if most_tokens is None else min(self._batch_tokens, most_tokens)
        limits = StepLimits(tokens, self._step_seconds())
        plan = plan_step(self._requests.running, now=time.monotonic(), limits=limits, cost=self._cost, drafts=drafts)
        return [_up_to_checkpoint(chunk) for chunk in plan]

    def _has_room(self, plan: Plan, pause_seconds: float) -> bool:
        """Makes room for a plan, and for the next tokens of streams, which must not wait while a block is saved."""
        count = sum(chunk.token_count for chunk in plan)
        spare = _SPARE_STEPS * sum(chunk.generation.is_decoding for chunk in plan)
        if self._pool.make_room(count + spare, seconds=pause_seconds):
            return True
        return not self._pool.can_free_cells() and self._pool.free_cells >= count

    def _step_seconds(self) -> float:
        if self._requests.is_streaming or self._requests.is_batch_before_urgent:
            return self._step_budget_seconds
        if self._lock.is_contended or all(one.is_batch for one in self._requests.running):
            return _SHARED_STEP_SECONDS
        return _UNSHARED_STEP_SECONDS


def _up_to_checkpoint(chunk: Chunk[Generation]) -> Chunk[Generation]:
    generation = chunk.generation
    end = generation.computed_count + chunk.known_count
    stop = next((length for length in generation.checkpoints if generation.computed_count < length < end), end)
    return chunk if stop == end else Chunk(generation, stop - generation.computed_count)
