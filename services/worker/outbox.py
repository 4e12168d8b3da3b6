"""What a step says to those who asked, posted at once."""

from collections.abc import Callable, Sequence

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.answer import absorb
from services.worker.generation import Event, Generation

Post = Callable[[list[tuple[Generation, Event]]], None]


class Outbox:
    """Collects events until they are posted; of one stream's tokens, if guesses were right, it makes one delta.

    Only the engine thread uses it.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self._events: list[tuple[Generation, Event | pb.Delta]] = []

    def add(self, generation: Generation, event: Event) -> None:
        """Takes an event of a request."""
        self._events.append((generation, event))

    def add_deltas(self, generation: Generation, deltas: Sequence[pb.Delta]) -> None:
        """Takes what became visible of an answer."""
        for delta in deltas:
            latest, event = self._events[-1] if self._events else (None, None)
            if not (latest is generation and isinstance(event, pb.Delta) and absorb(event, delta)):
                self._events.append((generation, delta))

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

    def flush(self) -> None:
        """Posts what was collected."""
        if self._events:
            self._post([(generation, _response(event)) for generation, event in self._events])
            self._events = []


def _response(event: Event | pb.Delta) -> Event:
    return pb.GenerateResponse(delta=event) if isinstance(event, pb.Delta) else event
