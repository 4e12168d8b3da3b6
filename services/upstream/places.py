"""Bounds how many requests a remote works on, and how many wait."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.shared.errors import Overloaded


class Places:
    """So many requests at once, so many more in a queue, the rest refused."""

    def __init__(self, count: int, *, queue_size: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._queue_size = queue_size
        self.running_count = 0
        self.waiting_count = 0

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Waits for a place and holds it."""
        await self._wait()
        self.running_count += 1
        try:
            yield
        finally:
            self.running_count -= 1
            self._free.release()

    async def _wait(self) -> None:
        if self._free.locked() and self.waiting_count >= self._queue_size:
            message = f"{self.waiting_count} requests are waiting for the upstream already."
            raise Overloaded(message, retry_after_seconds=random.uniform(1.0, 3.0))  # noqa: S311
        self.waiting_count += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting_count -= 1
