"""Starts the guard and tells it which processes it has to end should `up` be killed."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from cli import guard


class Guardian:
    """The near end of the guard's input; the operating system closes it whenever this process ends."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(guard.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._process.wait()

    def add(self, group: int) -> None:
        """Names a process group to end."""
        self._send(f"add {group}")

    def remove(self, group: int) -> None:
        """Says that a process group has ended."""
        self._send(f"remove {group}")

    def own_directory(self, directory: Path) -> None:
        """Names a directory to delete at the end, whatever the end is."""
        self._send(f"directory {directory}")

    def _send(self, line: str) -> None:
        with suppress(BrokenPipeError):  # a guard that was killed guards nothing, but serving goes on
            if self._process.stdin is not None:
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()
