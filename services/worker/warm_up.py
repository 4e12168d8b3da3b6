"""Measures what steps cost before the first request comes."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from services.worker.compute_lock import ComputeLock
from services.worker.cost import StepCost
from services.worker.kv_pool import KvPool
from services.worker.llama import LlamaContext, Row

# Tokens and outputs of each step, the most telling first. Guesses need a curve of steps in which all tokens have
# outputs, prompts one of steps with a single output.
_STEPS: Final = ((1, 1), (16, 1), (64, 1), (2, 2), (4, 4), (8, 8), (16, 16), (3, 3), (6, 6), (12, 12), (5, 5), (10, 10))
_TIMES: Final = 2  # the faster one counts: whatever else the machine does only adds
_MOST_SECONDS: Final = 3.0


def warm_up(
    context: LlamaContext, pool: KvPool, lock: ComputeLock, cost: StepCost, *,
    most_tokens: int, most_outputs: int, clock: Callable[[], float] = time.monotonic,
) -> None:  # fmt: skip
    """Runs steps in a sequence of their own and observes them, for about three seconds at most."""

    def run(row: Row) -> float:
        sequence_id = pool.open(None, now=0.0)
        with lock.held():
            started = clock()
            context.decode([replace(row, sequence_id=sequence_id)])
            context.synchronise()
            seconds = clock() - started
        pool.close(sequence_id)
        return seconds

    run(_row(*_STEPS[0]))  # reads the weights from disk
    began = clock()
    for token_count, output_count in _STEPS:
        if token_count <= most_tokens and output_count <= most_outputs and clock() - began < _MOST_SECONDS:
            row = _row(token_count, output_count)
            cost.observe(row.shape, min(run(row) for _ in range(_TIMES)))


def _row(token_count: int, output_count: int) -> Row:
    return Row(0, 0, [0] * token_count, output_count)
