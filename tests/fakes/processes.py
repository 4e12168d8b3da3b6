"""Starts the project's own processes for tests, and ends them."""

import asyncio
import atexit
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from services.shared.grpc_runtime import is_serving, open_channel

STATE_DIRECTORY = tempfile.mkdtemp(prefix="localcode-tests-")
atexit.register(shutil.rmtree, STATE_DIRECTORY, ignore_errors=True)
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("LOCALCODE_")},
    "LOCALCODE_LOG_FORMAT": "json",
    "LOCALCODE_CACHE_STATE_DIRECTORY": STATE_DIRECTORY,
}


class Process:
    """A child process; what it writes to its standard output is kept as JSON events."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.events: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        if self.is_running:
            self._process.kill()
        await self.wait()

    async def wait(self) -> int:
        await self._reading
        return await self._process.wait()

    async def terminate(self) -> int:
        if self.is_running:
            self._process.terminate()
        return await self.wait()

    async def until(self, event: str, *, seconds: float = 20.0) -> dict[str, Any]:
        """Returns the first event of this name."""
        await until(lambda: any(known["event"] == event for known in self.events), seconds=seconds)
        return next(known for known in self.events if known["event"] == event)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.events.append(json.loads(line))


async def until(condition: Callable[[], object], *, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def start(module: str, *arguments: str, **variables: str) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, env={**ENVIRONMENT, **variables}, stdout=asyncio.subprocess.PIPE
    )
    return Process(process)


async def until_serving(address: str, *, seconds: float = 20.0) -> None:
    async with open_channel(address) as channel, asyncio.timeout(seconds):
        while not await is_serving(channel):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running(module: str, *arguments: str, **variables: str) -> AsyncIterator[Process]:
    """Runs `python -m module`, and kills it if it still runs at the end."""
    process = await start(module, *arguments, **variables)
    try:
        yield process
    finally:
        await process.kill()
