"""Knows whether a server of this user runs: one per state directory, which it locks."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from cli.errors import CommandError
from cli.paths import make_private, state_directory

_LOCK: Final = "server.lock"
_NOTE: Final = "server.json"


@dataclass(frozen=True)
class RunningServer:
    """Where a server is."""

    pid: int
    url: str
    cache_address: str = ""
    """Where its cache service answers; empty until that is settled."""


@contextmanager
def announced(url: str) -> Iterator[None]:
    """Claims the state directory for this process. The system frees it whenever the process ends."""
    directory = make_private(state_directory())
    lock = FileLock(directory / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CommandError(_already_running(directory)) from error
    note = directory / _NOTE
    try:
        announce(RunningServer(os.getpid(), url))
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def announce(server: RunningServer) -> None:
    """Notes where the server is that has claimed the state directory."""
    note = state_directory() / _NOTE
    temporary = note.with_suffix(".new")
    temporary.write_text(json.dumps(asdict(server)), encoding="utf-8")
    temporary.replace(note)


def find_running() -> RunningServer | None:
    """The server that holds the state directory now."""
    directory = state_directory()
    if not (directory / _LOCK).exists():
        return None
    try:
        with FileLock(directory / _LOCK, timeout=0):
            return None
    except Timeout:
        return _read_note(directory) or RunningServer(0, "")


def _already_running(directory: Path) -> str:
    server = _read_note(directory)
    where = f" at {server.url} (process {server.pid})" if server else ""
    return (
        f"LocalCode already runs{where}. Stop it with Ctrl-C in its terminal"
        + (f" or `kill {server.pid}`" if server else "")
        + f"; for a second one beside it, set LOCALCODE_STATE_DIR to another directory than {directory}."
    )


def _read_note(directory: Path) -> RunningServer | None:
    try:
        return RunningServer(**json.loads((directory / _NOTE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
