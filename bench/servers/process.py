"""Child processes of the benchmark."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx

_START_SECONDS: Final = 300.0
_STOP_SECONDS: Final = 30.0
IsWell = Callable[[dict[str, Any]], bool]


class ServerFailed(Exception):
    """A server did not start; its notes hold what it printed last."""


def says_ok(state: dict[str, Any]) -> bool:
    """Whether a server's health says that it is well."""
    return bool(state.get("status") == "ok")


@asynccontextmanager
async def running(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str], cwd: Path, health_url: str,
    is_well: IsWell = says_ok,
) -> AsyncIterator[int]:  # fmt: skip
    """Runs a server until left; yields its process id once the health it tells with status 200 shows it to be well."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        await _until_well(process, health_url, is_well)
        yield process.pid
    except Exception as error:
        ended = f" and ended with {process.returncode}" if process.returncode is not None else ""
        error.add_note(f"{Path(command[0]).name} said last{ended}:\n{_tail(log)}")
        raise
    finally:
        await _end(process)


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def _until_well(process: asyncio.subprocess.Process, health_url: str, is_well: IsWell) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not await tells_well(client, health_url, is_well):
                    if process.returncode is not None:
                        raise ServerFailed(f"The server ended with {process.returncode}.")
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            raise ServerFailed(f"The server isn't ready after {_START_SECONDS:.0f} s.") from error


async def until(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    """Waits for something, as long as a start may take."""
    try:
        async with asyncio.timeout(_START_SECONDS):
            while not await is_so():  # noqa: ASYNC110 other processes tell nobody
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise ServerFailed(f"After {_START_SECONDS:.0f} s still not so: {what}.") from error


async def tells_well(client: httpx.AsyncClient, url: str, is_well: IsWell = says_ok) -> bool:
    """Whether the health that a server tells with status 200 shows it to be well."""
    try:
        answer = await client.get(url)
        return answer.status_code == httpx.codes.OK and is_well(answer.json())
    except (httpx.HTTPError, ValueError):
        return False


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
