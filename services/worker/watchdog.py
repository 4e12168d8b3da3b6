"""Ends the process when the engine hangs, so that its supervisor starts it again."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, Protocol

import structlog

EXIT_CODE_HUNG: Final = 70
_log = structlog.get_logger(__name__)


class StepWatch:
    """Knows whether the step in progress takes too long. One thread runs the steps, any thread may look."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._hangs_at: float | None = None

    @property
    def is_hung(self) -> bool:
        """Whether it does."""
        hangs_at = self._hangs_at
        return hangs_at is not None and self._clock() > hangs_at

    @contextmanager
    def step(self, hang_seconds: float) -> Iterator[None]:
        """Surrounds a step, which hangs if it takes longer than that."""
        self._hangs_at = self._clock() + hang_seconds
        try:
            yield
        finally:
            self._hangs_at = None


class Watched(Protocol):
    """What can hang (`Engine`)."""

    @property
    def is_hung(self) -> bool:
        """Whether it will not take another step."""
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
