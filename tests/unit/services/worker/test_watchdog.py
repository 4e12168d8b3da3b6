import asyncio
import os
from typing import Any

import pytest

from services.worker.watchdog import EXIT_CODE_HUNG, watch


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
