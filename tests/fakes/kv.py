"""Steps of a pool over a real context, taken by hand, for tests of what state is worth."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.worker.llama import LlamaContext, Row
from services.worker.parking import Match
from tests.fakes.engine import LoadedEngine


def logits_after_each(
    context: LlamaContext, sequence_id: int, tokens: Sequence[int], start: int
) -> NDArray[np.float32]:
    """Feeds tokens one by one, without the pool, and returns the logits after each. Shape: (tokens, vocabulary)."""
    found = []
    for position, token in enumerate(tokens, start):
        ((output,),) = context.decode([Row(sequence_id, position, [token], output_count=1)])
        context.kv.extended(sequence_id, position, position + 1)
        found.append(context.logits(output).copy())
    return np.stack(found)


def compute(running: LoadedEngine, tokens: Sequence[int], match: Match | None = None, *, chunk: int = 256) -> int:
    """Opens a sequence of the pool with these tokens."""
    pool, context = running.loaded.pool, running.loaded.context
    sequence_id = pool.open(match, now=0.0)
    for start in range(match.length if match else 0, len(tokens), chunk):
        part = tokens[start : start + chunk]
        assert pool.make_room(len(part))
        context.decode([Row(sequence_id, start, part, output_count=0)])
        pool.extend(sequence_id, len(part))
    return sequence_id


def best_match(running: LoadedEngine, tokens: Sequence[int]) -> Match | None:
    """What the pool finds for a prompt in cells and, after moving it there, in memory."""
    pool = running.loaded.pool
    key = pool.key(tokens)
    while pool.fetch(key, pool.best_match(key, []), now=0.0, is_streaming=True):
        pass
    return pool.best_match(key, [])
