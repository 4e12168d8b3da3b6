"""What steps say to those who asked: posted at once, or a moment later with what the next steps say.

Each message costs worker, router and edge 1.5 ms together, on cores that llama.cpp may want too; less beside others.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.answer import absorb
from services.worker.generation import Event, Generation

_SHARE_WITH_OTHERS: Final = 0.5
"""Of its interval, after which what a stream says goes out with what another one must."""

Post = Callable[[list[tuple[Generation, Event]]], None]


@dataclass(frozen=True)
class StreamInterval:
    """How long what a stream says may wait behind what was posted of it last, in seconds."""

    seconds: float = 0.0
    longest_seconds: float = 0.0
    """Among many streams, each of which is slower: from three on each adds half of `seconds`, up to this."""

    def among(self, stream_count: int) -> float:
        """The time where so many streams run."""
        return max(self.seconds, min(self.seconds * stream_count / 2, self.longest_seconds))


class Outbox:
    """Collects events until they are posted; what one stream says meanwhile is one delta.

    Only the engine thread uses it. The first delta of a stream and its end never wait.
    """

    def __init__(self, post: Post, interval: StreamInterval | None = None) -> None:
        self._post = post
        self._interval = interval or StreamInterval()
        self._events: dict[Generation, list[Event | pb.Delta]] = {}

    def add(self, generation: Generation, event: Event) -> None:
        """Takes an event of a request."""
        self._events.setdefault(generation, []).append(event)

    def add_deltas(self, generation: Generation, deltas: Sequence[pb.Delta]) -> None:
        """Takes what became visible of an answer."""
        events = self._events.setdefault(generation, []) if deltas else []
        for delta in deltas:
            latest = events[-1] if events else None
            if not (isinstance(latest, pb.Delta) and absorb(latest, delta)):
                events.append(delta)

    def report_progress(self, generation: Generation, phase: "pb.Phase.ValueType", value: int) -> None:
        """Says how far a request is that waits for its first token, if that is news."""
        if generation.last_progress == (phase, value) or generation.first_token_at is not None:
            return
        generation.last_progress = (phase, value)
        progress = pb.Progress(phase=phase, total_token_count=generation.prompt_token_count)
        if phase == pb.PHASE_QUEUED:
            progress.queue_position = value
        else:
            progress.processed_token_count = value
        self.add(generation, pb.GenerateResponse(progress=progress))

    def flush(self, *, may_wait: bool = False, stream_count: int = 1) -> None:
        """Posts what was collected, but for what may wait if the next step is as short as this one."""
        interval = self._interval.among(stream_count)
        if not self._events or (may_wait and all(self._may_wait(one, interval) for one in self._events)):
            return
        # Together they wake the processes on their way once, so from here on they fall due together.
        due = [one for one in self._events if not (may_wait and self._may_wait(one, interval * _SHARE_WITH_OTHERS))]
        now = time.monotonic()
        posted: list[tuple[Generation, Event]] = []
        for generation in due:
            events = self._events.pop(generation)
            posted += [(generation, _response(event)) for event in events]
            if isinstance(events[-1], pb.Delta):
                generation.posted_at = now
        self._post(posted)

    def _may_wait(self, generation: Generation, interval_seconds: float) -> bool:
        has_said_only = all(isinstance(event, pb.Delta) for event in self._events[generation])
        since = time.monotonic() - generation.posted_at
        return generation.is_running and has_said_only and since < interval_seconds


def _response(event: Event | pb.Delta) -> Event:
    return pb.GenerateResponse(delta=event) if isinstance(event, pb.Delta) else event
