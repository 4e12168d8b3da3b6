"""Ends the process when the engine hangs, so that its supervisor starts it again."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

import structlog

EXIT_CODE_HUNG: Final = 70
_log = structlog.get_logger(__name__)


class Watched(Protocol):
    """What can hang (`Engine`)."""

    @property
    def is_hung(self) -> bool:
        """Whether the step in progress takes far longer than such steps do."""
        ...


@asynccontextmanager
async def watch(engine: Watched, *, interval_seconds: float = 1.0) -> AsyncIterator[None]:
    """Watches an engine until left. A hung `llama_decode` can't be ended otherwise than with its process."""
    task = asyncio.create_task(_watch_forever(engine, interval_seconds))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _watch_forever(engine: Watched, interval_seconds: float) -> None:
    while not engine.is_hung:  # noqa: ASYNC110 - the thread that would set an event is the one that hangs
        await asyncio.sleep(interval_seconds)
    _log.critical("engine_hangs", remedy="the process ends and is started again")
    os._exit(EXIT_CODE_HUNG)
