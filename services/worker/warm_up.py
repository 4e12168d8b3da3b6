"""Measures what steps cost before the first request comes."""

import time
from collections.abc import Callable
from typing import Final

from services.worker.compute_lock import ComputeLock
from services.worker.cost import StepCost
from services.worker.kv_pool import KvPool
from services.worker.llama import LlamaContext, Row

# Tokens and outputs of each step, the most telling first. Guesses need a curve of steps in which all tokens have
# outputs, prompts one of steps with a single output; the first step of a kind also pays for making its graph.
_STEPS: Final = (
    (1, 1), (1, 1), (16, 1), (64, 1), (2, 2), (4, 4), (8, 8), (16, 16), (1, 1),
    (3, 3), (6, 6), (12, 12), (5, 5), (2, 2), (4, 4), (8, 8), (16, 16),
)  # fmt: skip
_MOST_SECONDS: Final = 3.0


def warm_up(
    context: LlamaContext, pool: KvPool, lock: ComputeLock, cost: StepCost, *,
    most_tokens: int, most_outputs: int, clock: Callable[[], float] = time.monotonic,
) -> None:  # fmt: skip
    """Runs steps in a sequence of their own and observes them, for about three seconds at most."""
    began = clock()
    for token_count, output_count in _STEPS:
        if clock() - began > _MOST_SECONDS:
            break
        if token_count > most_tokens or output_count > most_outputs:
            continue
        sequence_id = pool.open(None, now=0.0)
        row = Row(sequence_id, 0, [0] * token_count, output_count)
        with lock.held():
            started = clock()
            context.decode([row])
            context.synchronise()
            cost.observe(row.shape, clock() - started)
        pool.close(sequence_id)
