"""A worker's engine with a real model, in the process of the test."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.engine import Engine, EngineLimits
from services.worker.generation import Event, Generation
from services.worker.loading import Loaded, load
from services.worker.prompts import Preparer
from services.worker.sampling import Sampler
from services.worker.servicer import _answer
from services.worker.settings import WorkerSettings
from services.worker.speculation import NO_SPECULATION, SpeculationOptions


@dataclass
class Said:
    """What came back for a request, and when."""

    generation: Generation
    deltas: list[pb.Delta] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    finish: pb.Finish = field(default_factory=pb.Finish)

    @property
    def tokens(self) -> list[int]:
        return self.generation.tokens[self.generation.prompt_token_count :]

    @property
    def text(self) -> str:
        return "".join(delta.content for delta in self.deltas)

    @property
    def calls(self) -> list[tuple[str, str]]:
        calls: dict[int, list[str]] = {}
        for delta in self.deltas:
            if delta.HasField("tool_call"):
                call = calls.setdefault(delta.tool_call.index, ["", ""])
                call[0] += delta.tool_call.name
                call[1] += delta.tool_call.arguments
        return [(name, arguments) for name, arguments in calls.values()]

    @property
    def seconds(self) -> float:
        return self.finish.timings.decode_seconds

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


class Running:
    """An engine, and requests to it."""

    def __init__(self, loaded: Loaded, engine: Engine, settings: WorkerSettings) -> None:
        self.loaded, self.engine, self.settings = loaded, engine, settings
        self._preparer = Preparer(
            loaded.model, loaded.model.chat_template or "", settings, context_length=loaded.size.context
        )
        self._events: dict[int, Queue[tuple[float, Event]]] = {}

    def submit(self, request: pb.GenerateRequest, speculation: SpeculationOptions = NO_SPECULATION) -> Generation:
        prepared = self._preparer.prepare(request)
        events: Queue[tuple[float, Event]] = Queue()
        generation = Generation(
            request_id="r", tokens=prepared.tokens, prompt_token_count=len(prepared.tokens),
            max_tokens=prepared.max_tokens, sampler=Sampler(self.loaded.model, prepared.options),
            make_answer=lambda: _answer(request, prepared, self._preparer.call_format),
            deliver=lambda event: events.put((time.monotonic(), event)), arrived_at=time.monotonic(),
            call_grammar=prepared.call_grammar, open_announced_call=prepared.open_announced_call,
            keeps_state=False, speculation_options=speculation,
        )  # fmt: skip
        self._events[id(generation)] = events
        self.engine.submit(generation)
        return generation

    def times_of(self, generation: Generation) -> list[float]:
        """When its deltas came, as far as they did."""
        events, times = self._events[id(generation)], []
        while not events.empty():
            at, event = events.get()
            if not isinstance(event, Exception) and event.HasField("delta"):
                times.append(at)
        return times

    def wait(self, generation: Generation) -> Said:
        said, events = Said(generation), self._events.pop(id(generation))
        while True:
            at, event = events.get(timeout=240)
            if isinstance(event, Exception):
                raise event
            if event.HasField("delta"):
                said.deltas.append(event.delta)
                said.times.append(at)
            elif event.HasField("finish"):
                said.finish = event.finish
                return said

    def say(self, request: pb.GenerateRequest, speculation: SpeculationOptions = NO_SPECULATION) -> Said:
        return self.wait(self.submit(request, speculation))


@contextmanager
def running_worker(model: Path, **values: Any) -> Iterator[Running]:
    settings = WorkerSettings(name="test", model_path=model, threads=2, temperature=0, **values)
    loaded = load(settings)
    limits = EngineLimits(settings.slots, settings.queue_size, settings.batch_tokens, settings.step_budget_ms / 1000)
    engine = Engine(loaded.model, loaded.context, loaded.pool, loaded.lock, limits, _deliver, loaded.draft_model)
    engine.start()
    try:
        yield Running(loaded, engine, settings)
    finally:
        engine.stop()
        loaded.context.close()
        loaded.model.close()


def chat(text: str, *, max_tokens: int = 200, tools: tuple[pb.Tool, ...] = (), **sampling: Any) -> pb.GenerateRequest:
    message = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text=text)])
    return pb.GenerateRequest(
        chat=pb.ChatPrompt(messages=[message], tools=tools), max_tokens=max_tokens,
        sampling=pb.SamplingParams(**sampling),
    )  # fmt: skip


def _deliver(events: list[tuple[Generation, Event]]) -> None:
    for generation, event in events:
        generation.deliver(event)
