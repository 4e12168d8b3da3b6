"""Keeps requests away from a worker that failed several times in a row. Pure but for what it remembers."""

from dataclasses import dataclass
from typing import Final

FAILURES_TO_OPEN: Final = 3
FIRST_PAUSE_SECONDS: Final = 2.0
LONGEST_PAUSE_SECONDS: Final = 60.0


@dataclass
class Breaker:
    """Open after failures in a row; then one request at a time tries whether the worker is well again."""

    failure_count: int = 0
    open_until: float = 0.0
    is_probing: bool = False

    def allows(self, now: float) -> bool:
        """Whether a request may go there."""
        if self.failure_count < FAILURES_TO_OPEN:
            return True
        return now >= self.open_until and not self.is_probing

    def begin(self) -> None:
        """Notes that a request goes there."""
        self.is_probing = self.failure_count >= FAILURES_TO_OPEN

    def succeed(self) -> None:
        """Notes that a worker answered."""
        self.failure_count, self.is_probing = 0, False

    def fail(self, now: float) -> None:
        """Notes a failure; each further one doubles the pause."""
        self.failure_count += 1
        self.is_probing = False
        over = self.failure_count - FAILURES_TO_OPEN
        if over >= 0:
            self.open_until = now + min(FIRST_PAUSE_SECONDS * 2 ** min(over, 10), LONGEST_PAUSE_SECONDS)

    def abandon(self) -> None:
        """Notes that a request ended without saying anything about the worker: its client left."""
        self.is_probing = False
