"""How many parked cells a decode step bears: attention runs over all cells up to the highest one in use."""

import time
from collections.abc import Sequence
from typing import Final

from services.worker.llama import LlamaContext, Row

CPU_SHARE: Final = 0.01
"""How much slower a step may be for parked cells: to move one away and back takes what it costs 30 steps (0.5B)."""
GPU_SHARE: Final = 0.25
"""There what it costs 450 steps, more than most answers have (1.5B on an H100)."""
_SAMPLE_TOKENS: Final = 64
_MOST_LOADED_CELLS: Final = 8192
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
    """Times decode steps with an empty and a filled cache. Leaves the cache empty."""
    running, filler = 0, 1
    context.decode([Row(running, 0, [0] * _SAMPLE_TOKENS, 1)])
    data = context.kv.save(running, 0, _SAMPLE_TOKENS)
    plain = _decode_seconds(context, range(_SAMPLE_TOKENS, _SAMPLE_TOKENS + _STEPS))
    loaded_cells = min(_MOST_LOADED_CELLS, context.cell_count // 2) // _SAMPLE_TOKENS * _SAMPLE_TOKENS
    for _ in range(loaded_cells // _SAMPLE_TOKENS):
        context.kv.restore(filler, data, 0, _SAMPLE_TOKENS)
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
