"""How likely state is to be used again, by how often and how long ago it was used: pure, the same for every tier."""

import math
from typing import Final

_FRESH_SECONDS: Final = 15.0
_WEIGHT_OF_USES: Final = 0.5


def expected_reuse(use_count: int, idle_seconds: float) -> float:
    """Weighs state against other state; 1 for what was just made.

    What has rested long will probably rest as long again, so the weight falls as 1 ÷ time. An exponential half-life
    keeps what was used often and has ended, and drops what was just made instead: over recorded days that found less
    than LRU and wrote twice as much (`python -m bench policy`). Each further use says less than the one before it.
    """
    return (1 + _WEIGHT_OF_USES * math.log2(1 + use_count)) / (1 + max(0.0, idle_seconds) / _FRESH_SECONDS)
