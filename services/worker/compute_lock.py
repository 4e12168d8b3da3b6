"""Lets one CPU worker of a host compute at a time.

llama.cpp's threads spin at barriers: two workers that compute at once on the same cores are many times slower than one
after the other. Work that nobody waits for stands back while another worker has some that somebody waits for. The
kernel frees what a worker holds when it dies.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

_CONTENDED_SECONDS: Final = 0.002


@dataclass
class TurnWaits:
    """How long steps waited for another worker of this machine to end its own, since the start."""

    seconds: float = 0.0
    longest_seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Counts the wait of one step."""
        self.seconds += seconds
        self.longest_seconds = max(self.longest_seconds, seconds)


class ComputeLock(Protocol):
    """What a step holds while it computes."""

    waits: TurnWaits

    @property
    def is_contended(self) -> bool:
        """Whether another worker computed when this one last wanted to."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """Waits for its turn and keeps it until left."""
        ...

    def claim(self, *, is_urgent: bool) -> None:
        """Says whether this worker has work that somebody waits for."""
        ...

    @property
    def is_claimed_by_others(self) -> bool:
        """Whether another worker has said so; asked by one that has not."""
        ...


class NoComputeLock:
    """For a worker that shares its processor with no other."""

    is_contended = False
    is_claimed_by_others = False

    def __init__(self) -> None:
        self.waits = TurnWaits()

    def held(self) -> AbstractContextManager[None]:
        """Waits for nothing."""
        return nullcontext()

    def claim(self, *, is_urgent: bool) -> None:
        """Nobody listens."""


class FileComputeLock:
    """A fair lock made of two files: whoever waits for the second one holds the first, so turns alternate.

    Those with urgent work hold a third one together.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._turnstile, self._lock, self._urgent = (_open(f"{path}{end}") for end in (".turnstile", "", ".urgent"))
        self.waits = TurnWaits()
        self.is_contended = False
        self._is_urgent = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Waits for its turn and keeps it until left."""
        started = time.monotonic()
        fcntl.flock(self._turnstile, fcntl.LOCK_EX)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        fcntl.flock(self._turnstile, fcntl.LOCK_UN)
        waited_seconds = time.monotonic() - started
        self.waits.add(waited_seconds)
        self.is_contended = waited_seconds > _CONTENDED_SECONDS
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def claim(self, *, is_urgent: bool) -> None:
        """Says whether this worker has work that somebody waits for."""
        if is_urgent != self._is_urgent:
            fcntl.flock(self._urgent, fcntl.LOCK_SH if is_urgent else fcntl.LOCK_UN)
            self._is_urgent = is_urgent

    @property
    def is_claimed_by_others(self) -> bool:
        """Whether another worker has said so; asked by one that has not."""
        try:
            fcntl.flock(self._urgent, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._urgent, fcntl.LOCK_UN)
        return False

    def close(self) -> None:
        """Gives the files back."""
        for file in (self._turnstile, self._lock, self._urgent):
            os.close(file)


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
