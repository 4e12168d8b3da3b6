"""Runs planned steps in llama.cpp, one at a time, learns what they cost and knows when one hangs."""

import time
from collections.abc import Sequence
from typing import Final

from services.worker.compute_lock import ComputeLock
from services.worker.cost import StepCost, StepShape, total
from services.worker.generation import Generation
from services.worker.kv_pool import KvPool
from services.worker.llama import LlamaContext, NoFreeCell, Row
from services.worker.scheduler import Chunk
from services.worker.watchdog import StepWatch

_ALIKE_PER_LESSON: Final = 4
"""Of steps in which as many streams decode one in so many is learned from: a step on a GPU is short."""


class StepRunner:
    """Computes the tokens of a plan; the cells they take are booked in the pool. Only the engine thread runs steps."""

    def __init__(self, context: LlamaContext, pool: KvPool, lock: ComputeLock, cost: StepCost) -> None:
        self._context, self._pool, self._lock, self._cost = context, pool, lock, cost
        self._watch = StepWatch()
        self._latest_size = (0, 0)
        self._alike_count = 0

    @property
    def is_hung(self) -> bool:
        """Whether the step in progress takes far longer than such steps do. For any thread."""
        return self._watch.is_hung

    def run(self, plan: Sequence[Chunk[Generation]]) -> list[range]:
        """Computes a plan; returns the output indices of each chunk."""
        if not plan:
            return []
        rows = [_row(chunk) for chunk in plan]
        shape = total(row.shape for row in rows)
        with self._lock.held():
            started = time.monotonic()
            with self._watch.step(self._cost.hang_seconds(shape)):
                outputs = self._decode(rows)
                self._context.synchronise()
            if self._is_news(shape):
                self._cost.observe(shape, time.monotonic() - started)
        for row in rows:
            self._pool.extend(row.sequence_id, len(row.tokens))
        return outputs

    def _is_news(self, shape: StepShape) -> bool:
        size = shape.token_count, shape.output_count
        is_alike = size == self._latest_size and shape.token_count == shape.output_count
        self._alike_count = (self._alike_count + 1) % _ALIKE_PER_LESSON if is_alike else 0
        self._latest_size = size
        return self._alike_count == 0

    def _decode(self, rows: Sequence[Row]) -> list[range]:
        try:
            return self._context.decode(rows)
        except NoFreeCell:  # llama.cpp needs more than we counted: give it all that is not running
            self._pool.drop_parked()
            return self._context.decode(rows)


def _row(chunk: Chunk[Generation]) -> Row:
    generation = chunk.generation
    start = generation.computed_count
    tokens = [*generation.tokens[start : start + chunk.known_count], *chunk.draft]
    return Row(generation.sequence_id, start, tokens, chunk.output_count)
