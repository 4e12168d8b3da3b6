"""Lets one CPU worker of a host compute at a time.

llama.cpp's threads spin at barriers: two workers that compute at once on the same cores are many times slower than one
after the other. The kernel frees the lock when its holder dies.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Final, Protocol

_CONTENDED_SECONDS: Final = 0.002


class ComputeLock(Protocol):
    """What a step holds while it computes."""

    @property
    def is_contended(self) -> bool:
        """Whether another worker computed when this one last wanted to."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """Waits for its turn and keeps it until left."""
        ...


class NoComputeLock:
    """For a worker that shares its processor with no other."""

    is_contended = False

    def held(self) -> AbstractContextManager[None]:
        """Waits for nothing."""
        return nullcontext()


class FileComputeLock:
    """A fair lock made of two files: whoever waits for the second one holds the first, so turns alternate."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._turnstile = os.open(f"{path}.turnstile", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.is_contended = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Waits for its turn and keeps it until left."""
        started = time.monotonic()
        fcntl.flock(self._turnstile, fcntl.LOCK_EX)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        fcntl.flock(self._turnstile, fcntl.LOCK_UN)
        self.is_contended = time.monotonic() - started > _CONTENDED_SECONDS
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Gives the files back."""
        os.close(self._turnstile)
        os.close(self._lock)
