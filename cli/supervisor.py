"""Keeps child processes running: restarts what ends, with back-off, and ends all of them cleanly."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.guard import signal_group
from cli.guardian import Guardian

FIRST_DELAY_SECONDS: Final = 0.5
LONGEST_DELAY_SECONDS: Final = 30.0
STABLE_SECONDS: Final = 60.0
GRACE_SECONDS: Final = 8.0


@dataclass(frozen=True)
class ChildSpec:
    """One process to keep running."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    output: Path | None = None
    """Where its output goes; unset means to our own error stream."""
    stops_last: bool = False
    """Whether others need it until they have ended; of several such children the one started last ends first."""


@dataclass(frozen=True)
class ChildEnded:
    """A child ended by itself, and when it is started again."""

    name: str
    exit_code: int
    restart_delay_seconds: float
    count: int

    @property
    def cause(self) -> str:
        """How it ended, in words."""
        if self.exit_code < 0:
            return f"killed by {signal.Signals(-self.exit_code).name}"
        return f"exit code {self.exit_code}"


def next_delay_seconds(previous_seconds: float, alive_seconds: float) -> float:
    """Doubles the wait before each restart, and starts over after a child that lived for a while."""
    if previous_seconds == 0 or alive_seconds >= STABLE_SECONDS:
        return FIRST_DELAY_SECONDS
    return min(previous_seconds * 2, LONGEST_DELAY_SECONDS)


class Supervisor:
    """The children that run now."""

    def __init__(self, guardian: Guardian, report: Callable[[ChildEnded], None]) -> None:
        self._guardian = guardian
        self._report = report
        self._running: dict[str, tuple[ChildSpec, asyncio.subprocess.Process]] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}

    def start(self, spec: ChildSpec) -> None:
        """Keeps a child running from now on."""
        self._keepers[spec.name] = asyncio.create_task(self._keep_running(spec))

    async def stop(self, name: str, *, grace_seconds: float = GRACE_SECONDS) -> None:
        """Ends one child and leaves it so."""
        if keeper := self._keepers.pop(name, None):
            await _cancelled(keeper)
        if running := self._running.get(name):
            await _end(running[1], grace_seconds)
            self._running.pop(name, None)
            self._forget(running[1])

    def process_id(self, name: str) -> int | None:
        """The process id of a child, if it runs."""
        running = self._running.get(name)
        return running[1].pid if running else None

    def kill_all(self) -> None:
        """Ends all children at once, without asking."""
        for _spec, process in self._running.values():
            signal_group(process.pid, signal.SIGKILL)

    async def _keep_running(self, spec: ChildSpec) -> None:
        """Starts a child again and again until cancelled; a child is left running then."""
        delay_seconds, count = 0.0, 0
        while True:
            started = time.monotonic()
            exit_code = await self._run_once(spec)
            count += 1
            delay_seconds = next_delay_seconds(delay_seconds, time.monotonic() - started)
            self._report(ChildEnded(spec.name, exit_code, delay_seconds, count))
            await asyncio.sleep(delay_seconds)

    async def end_all(self, *, grace_seconds: float = GRACE_SECONDS) -> None:
        """Ends all children: SIGTERM, a grace, SIGKILL; those that others need come last."""
        await _cancelled(*self._keepers.values())
        place = {name: index for index, name in enumerate(self._keepers)}
        started = sorted(self._running.values(), key=lambda running: place.get(running[0].name, -1))
        users = [process for spec, process in started if not spec.stops_last]
        await asyncio.gather(*(_end(process, grace_seconds) for process in users))
        for spec, process in reversed(started):
            if spec.stops_last:
                await _end(process, grace_seconds)
        for _spec, process in started:
            self._forget(process)
        self._running.clear()

    async def _run_once(self, spec: ChildSpec) -> int:
        process = await _start(spec)
        self._running[spec.name] = spec, process
        self._guardian.add(process.pid)
        exit_code = await process.wait()
        del self._running[spec.name]
        self._forget(process)
        return exit_code

    def _forget(self, process: asyncio.subprocess.Process) -> None:
        signal_group(process.pid, signal.SIGKILL)  # whatever the child itself had started
        self._guardian.remove(process.pid)


@asynccontextmanager
async def supervised(
    specs: Sequence[ChildSpec],
    *,
    guardian: Guardian,
    report: Callable[[ChildEnded], None],
    grace_seconds: float = GRACE_SECONDS,
) -> AsyncIterator[Supervisor]:
    """Keeps children running until left, and then ends them all."""
    supervisor = Supervisor(guardian, report)
    for spec in specs:
        supervisor.start(spec)
    try:
        yield supervisor
    finally:
        await supervisor.end_all(grace_seconds=grace_seconds)


async def _cancelled(*keepers: asyncio.Task[None]) -> None:
    for keeper in keepers:
        keeper.cancel()
    await asyncio.gather(*keepers, return_exceptions=True)


async def _start(spec: ChildSpec) -> asyncio.subprocess.Process:
    output = spec.output.open("ab") if spec.output else None
    try:
        return await asyncio.create_subprocess_exec(
            *spec.command,
            env=dict(spec.environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output or sys.stderr.fileno(),
            stderr=output,
            start_new_session=True,  # a terminal's Ctrl-C reaches only `up`, which ends its children itself
        )
    finally:
        if output:
            output.close()


async def _end(process: asyncio.subprocess.Process, grace_seconds: float) -> None:
    signal_group(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(grace_seconds):
            await process.wait()
    except TimeoutError:
        signal_group(process.pid, signal.SIGKILL)
        await process.wait()
