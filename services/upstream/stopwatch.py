"""Times one generation as seen from here."""

import time
from collections.abc import Callable

from localcode.inference.v1 import inference_pb2 as pb


class Stopwatch:
    """Starts when made. Waiting, sending and the remote's own queue can't be told apart and count as prefill."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._first_token: float | None = None

    def note_token(self) -> None:
        """Marks the first token; later ones change nothing."""
        if self._first_token is None:
            self._first_token = self._clock()

    def timings(self) -> pb.Timings:
        """The durations up to now."""
        now = self._clock()
        first = now if self._first_token is None else self._first_token
        return pb.Timings(prefill_seconds=first - self._started, decode_seconds=now - first)
