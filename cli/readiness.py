"""Waits until all processes serve, and says so one by one."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import httpx
from rich.markup import escape

from cli.console import say
from cli.errors import CommandError
from cli.plan import Service
from cli.supervisor import ChildEnded
from services.shared.grpc_runtime import is_serving, open_channel

_POLL_SECONDS: Final = 0.1
_REMINDER_SECONDS: Final = 15.0
_MOST_FAILURES: Final = 3
_SETTLE_SECONDS: Final = 10.0
"""How long all may take to be seen as healthy by the router after each serves by itself."""
_CRASHES: Final = frozenset({-signal.SIGSEGV, -signal.SIGILL, -signal.SIGBUS})
_ANEW: Final = (
    " If that was llama.cpp, it may have been compiled for another processor, or without deploy/amx_tile_config.h: "
    "`make clean` and `make run` compile it for this one."
)


class Watch:
    """Tells the person what ends, and gives up on a start that fails again and again."""

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()
        self._crashed: set[str] = set()
        self.on_end: Callable[[ChildEnded], None] = lambda _event: None
        """Told of each of them too."""

    def ended(self, event: ChildEnded) -> None:
        """Takes note of a child that ended by itself."""
        self._failures[event.name] = event.count
        if event.exit_code in _CRASHES:
            self._crashed.add(event.name)
        self.on_end(event)
        delay = f"{event.restart_delay_seconds:g} s"
        say("error", f"{escape(event.name)} ended ({event.cause}); it is started again in {delay}")

    def check(self, name: str) -> None:
        """Raises an error where a child doesn't come up."""
        if self._failures[name] >= _MOST_FAILURES:
            remedy = _ANEW if name in self._crashed else ""
            times = f"{self._failures[name]} times while starting"
            raise CommandError(f"{name} ended {times}; its messages are above.{remedy}")


async def wait_for_services(services: Sequence[Service], watch: Watch) -> None:
    """Returns when each serves."""
    tasks = [asyncio.create_task(_wait_for_service(service, watch)) for service in services]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def wait_for_edge(url: str, watch: Watch) -> str:
    """Returns the status that the whole system reports once it is `ok`, or after a while what it is instead."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        while True:
            watch.check("edge")
            status = await _status(client, url)
            if status == "ok" or (status != "unreachable" and time.monotonic() > deadline):
                return status
            await asyncio.sleep(_POLL_SECONDS)


async def _wait_for_service(service: Service, watch: Watch) -> None:
    started = time.monotonic()
    async with open_channel(service.address) as channel:
        await _until(lambda: is_serving(channel, timeout_seconds=1.0), service.spec.name, watch)
    say("ok", f"{escape(service.spec.name)} is ready [dim]({time.monotonic() - started:.1f} s)[/]")


async def _until(is_ready: Callable[[], Awaitable[bool]], name: str, watch: Watch) -> None:
    started = reminded = time.monotonic()
    while not await is_ready():
        watch.check(name)
        if time.monotonic() - reminded >= _REMINDER_SECONDS:
            reminded = time.monotonic()
            say("busy", f"{escape(name)} is still loading [dim]({reminded - started:.0f} s)[/]")
        await asyncio.sleep(_POLL_SECONDS)


async def _status(client: httpx.AsyncClient, url: str) -> str:
    try:
        return str((await client.get(f"{url}/health")).json()["status"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return "unreachable"
