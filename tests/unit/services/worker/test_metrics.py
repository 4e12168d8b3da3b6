from typing import Any, cast

import numpy as np
from prometheus_client import REGISTRY

from services.worker import metrics
from services.worker.blocks import Block
from services.worker.compute_lock import TurnWaits
from services.worker.engine import EngineLoad
from services.worker.ram_tier import RamTier
from services.worker.speculation.speculator import Guesses


class FakeEngine:
    guesses = Guesses()
    turn_waits = TurnWaits(seconds=3.5, longest_seconds=1.25)

    @staticmethod
    def load() -> EngineLoad:
        return EngineLoad(1, 2, 30, 100, 50.0, parked_cells=20)


def test_tiers_guesses_and_turns_are_reported() -> None:
    ram = RamTier(1000)
    ram.put(Block(b"h", b"", np.zeros(4, np.int32), np.zeros(64, np.uint8), 1.0))
    FakeEngine.guesses.drafted["lookup"] += 5
    FakeEngine.guesses.accepted["lookup"] += 3
    metrics.observe(cast("Any", FakeEngine()), model="coder", ram=ram)

    def value(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"localcode_worker_{name}", {"model": "coder", **labels})

    assert (value("used_kv_cells"), value("parked_kv_cells")) == (30, 20)
    assert (value("ram_tier_bytes"), value("ram_tier_budget_bytes")) == (64, 1000)
    assert (value("drafted_tokens_total", kind="lookup"), value("accepted_tokens_total", kind="lookup")) == (5, 3)
    assert (value("turn_wait_seconds_total"), value("longest_turn_wait_seconds")) == (3.5, 1.25)
