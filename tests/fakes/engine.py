"""A worker's engine over a real model file, in this process and without gRPC, for tests of what it computes."""

import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.answer import Answer
from services.worker.engine import Engine, EngineLimits
from services.worker.generation import Event, Generation
from services.worker.loading import Loaded, load
from services.worker.sampling import Sampler, SamplingOptions
from services.worker.settings import WorkerSettings


@dataclass(eq=False)
class Asked:
    """A request and what comes back for it."""

    generation: Generation
    events: "queue.SimpleQueue[Event]" = field(default_factory=queue.SimpleQueue)
    text: str = ""

    def wait(self, *, timeout: float = 120.0) -> pb.Finish:
        """Collects the answer up to its end."""
        while True:
            event = self.events.get(timeout=timeout)
            if isinstance(event, Exception):
                raise event
            self.text += event.delta.content
            if event.HasField("finish"):
                return event.finish


@dataclass(frozen=True)
class LoadedEngine:
    """An engine that runs."""

    engine: Engine
    loaded: Loaded

    def tokens(self, text: str) -> list[int]:
        """Tokenizes a prompt, special tokens included."""
        return self.loaded.model.tokenize(text, add_special=True, parse_special=True)

    def ask(self, prompt: str | Sequence[int], *, max_tokens: int = 100, **options: Any) -> Asked:
        """Submits a prompt, decoded greedily."""
        tokens = self.tokens(prompt) if isinstance(prompt, str) else list(prompt)
        generation = Generation(
            request_id=options.pop("request_id", "r"),
            tokens=tokens,
            prompt_token_count=len(tokens),
            max_tokens=max_tokens,
            sampler=Sampler(self.loaded.model, SamplingOptions(temperature=0.0)),
            make_answer=Answer,
            deliver=lambda event: asked.events.put(event),
            arrived_at=time.monotonic(),
            **options,
        )
        asked = Asked(generation)
        self.engine.submit(generation)
        return asked


def _deliver(events: list[tuple[Generation, Event]]) -> None:
    for generation, event in events:
        generation.deliver(event)


@contextmanager
def loaded_engine(model_path: Path, **settings: Any) -> Iterator[LoadedEngine]:
    """Loads a model as a worker does and runs its engine."""
    loaded = load(WorkerSettings(name="test", model_path=model_path, threads=settings.pop("threads", 1), **settings))
    chosen = WorkerSettings(**settings)
    limits = EngineLimits(chosen.slots, chosen.queue_size, chosen.batch_tokens, chosen.step_budget_ms / 1000)
    engine = Engine(loaded.model, loaded.context, loaded.pool, loaded.lock, limits, _deliver)
    engine.start()
    try:
        yield LoadedEngine(engine, loaded)
    finally:
        engine.stop()
        loaded.context.close()
        loaded.model.close()
