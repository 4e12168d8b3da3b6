"""How many parked cells a decode step bears: attention runs over all cells up to the highest one in use.

On a CPU llama.cpp deals them out to its threads in equal parts, so that parked ones leave a thread with less to do than
the others: behind 2,048 tokens, 750 parked cells slowed a step by 6 %, behind 256 by 2 % (0.5B, two threads).
"""

import time
from collections.abc import Sequence
from typing import Final

from services.worker.llama import LlamaContext, Row

CPU_SHARE: Final = 0.01
"""How much slower a step may be for parked cells: to move one away and back takes what it costs 30 steps (0.5B)."""
GPU_SHARE: Final = 0.25
"""There what it costs 450 steps, more than most answers have (1.5B on an H100)."""
_SAMPLE_TOKENS: Final = 64
_MOST_CELLS: Final = 8192
"""Of the conversation that decodes, an agent's, and as many parked ones."""
_STEPS: Final = 5


def parked_cell_budget(
    plain_seconds: float, loaded_seconds: float, loaded_cells: int, *, at_most: int, share: float
) -> int:
    """Says how many cells more slow a step by at most a share, if so many slowed it as measured."""
    slowdown = loaded_seconds / plain_seconds - 1
    if slowdown * at_most <= share * loaded_cells:
        return at_most
    return int(loaded_cells * share / slowdown)


def measure_parked_budget(context: LlamaContext, *, at_most: int, share: float) -> int:
    """Times decode steps of a conversation beside no other one and beside a parked one. Leaves the cache empty."""
    running, parked = 0, 1
    context.decode([Row(running, 0, [0] * _SAMPLE_TOKENS, 1)])
    data = context.kv.save(running, 0, _SAMPLE_TOKENS)
    pieces = min(_MOST_CELLS, context.cell_count // 4) // _SAMPLE_TOKENS
    for _ in range(pieces - 1):
        context.kv.restore(running, data, 0, _SAMPLE_TOKENS)  # the same positions again: more to attend to
    plain = _decode_seconds(context, range(_SAMPLE_TOKENS, _SAMPLE_TOKENS + _STEPS))
    for _ in range(pieces):
        context.kv.restore(parked, data, 0, _SAMPLE_TOKENS)
    loaded_cells = pieces * _SAMPLE_TOKENS
    loaded = _decode_seconds(context, range(_SAMPLE_TOKENS + _STEPS, _SAMPLE_TOKENS + 2 * _STEPS))
    context.clear()
    return parked_cell_budget(plain, loaded, loaded_cells, at_most=at_most, share=share)


def _decode_seconds(context: LlamaContext, positions: Sequence[int]) -> float:
    """The shortest of some steps: whatever else the machine does only adds to them."""
    seconds = []
    for position in positions:
        started = time.perf_counter()
        context.decode([Row(0, position, [0], 1)])
        context.synchronise()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
