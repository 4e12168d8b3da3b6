import asyncio
import os
from typing import Any

import pytest

from services.worker.watchdog import EXIT_CODE_HUNG, StepWatch, watch


class FakeEngine:
    is_hung = False


async def test_a_hung_engine_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(os, "_exit", ended.set_result)
    engine = FakeEngine()
    async with watch(engine, interval_seconds=0.001):
        await asyncio.sleep(0.01)
        assert not ended.done()
        engine.is_hung = True
        assert await asyncio.wait_for(ended, 1) == EXIT_CODE_HUNG


def test_a_step_hangs_while_it_takes_longer_than_allowed() -> None:
    now = 100.0
    steps = StepWatch(clock=lambda: now)
    with steps.step(30.0):
        now += 29
        assert not steps.is_hung
        now += 2
        assert steps.is_hung
    assert not steps.is_hung


def test_a_step_that_fails_does_not_hang() -> None:
    steps = StepWatch(clock=lambda: 0.0)

    def fail() -> None:
        with steps.step(-1.0):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert not steps.is_hung
