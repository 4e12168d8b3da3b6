"""Loads and unloads local models: carries out what `residency` decides, from what routers report and workers say."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from cli.plan import Service
from cli.residency import Limits, Resident, State, Why, loaded_at_start, next_steps
from cli.supervisor import ChildEnded, ChildSpec
from services.shared.grpc_runtime import is_serving, open_channel

STEP_SECONDS: Final = 0.25
_SETTLED_SECONDS: Final = 1.0
"""The same while every model is loaded or unloaded; a report of use is looked at when it comes."""
REPORT_SECONDS: Final = 5.0
"""How long a router's report is believed."""
_MOST_FAILURES: Final = 3
_FAILED_SECONDS: Final = 30.0
"""How long a model that failed to load is not tried again."""
_STAYING: Final = frozenset({State.LOADED, State.UNLOADED})
_UNLOAD_GRACE_SECONDS: Final = 60.0  # a disk may be slow to take what a model knows


class Children(Protocol):
    """Starts and ends processes (`Supervisor`)."""

    def start(self, spec: ChildSpec) -> None:
        """Keeps a child running from now on."""

    async def stop(self, name: str, *, grace_seconds: float) -> None:
        """Ends one child and leaves it so."""


@dataclass(frozen=True)
class ModelPlan:
    """A local model: its process, and what it takes."""

    name: str
    service: Service
    memory_bytes: int
    is_pinned: bool = False


@dataclass(frozen=True)
class Use:
    """What one router does with a model."""

    open_count: int = 0
    waiting_count: int = 0


@dataclass
class Keeping:
    """A model as the keeper knows it."""

    plan: ModelPlan
    state: State = State.UNLOADED
    state_since: float = 0.0
    why: Why = Why.ASKED
    asked_since: float | None = None
    """Since when a person asks for it to be loaded."""
    waited_since: float | None = None
    """Since when requests wait for it."""
    used_at: float = 0.0
    loading_seconds: float = 0.0
    """How long it took to load the last time."""
    failure_count: int = 0
    problem: str = ""
    failed_until: float = 0.0
    use: Use = field(default_factory=Use)

    def move(self, state: State, now: float) -> None:
        """Notes a new state."""
        self.state, self.state_since = state, now

    def resident(self, now: float) -> Resident:
        """What the decision needs to know of it."""
        since = [since for since in (self.asked_since, self.waited_since) if since is not None]
        return Resident(
            name=self.plan.name, memory_bytes=self.plan.memory_bytes, state=self.state, state_since=self.state_since,
            is_pinned=self.plan.is_pinned, open_count=self.use.open_count, waiting_count=self.use.waiting_count,
            wanted_since=min(since, default=None) if now >= self.failed_until else None, used_at=self.used_at,
            why=self.why,
        )  # fmt: skip


async def _answers(address: str) -> bool:
    async with open_channel(address) as channel:
        return await is_serving(channel, timeout_seconds=1.0)


class ModelKeeper:
    """All local models of this machine."""

    def __init__(
        self, plans: Sequence[ModelPlan], limits: Limits, children: Children, *,
        answers: Callable[[str], Awaitable[bool]] = _answers, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.models = {plan.name: Keeping(plan) for plan in plans}
        self._limits, self._children = limits, children
        self._answers, self._clock = answers, clock
        self._reports: dict[str, tuple[float, Mapping[str, Use]]] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._due = asyncio.Event()
        self.announce: Callable[[str], None] = lambda _text: None
        """Told what has happened."""

    def load_first(self, default: str) -> list[str]:
        """Begins to load what is loaded before anybody asks, and names it."""
        now = self._clock()
        names = loaded_at_start([model.resident(now) for model in self.models.values()], self._limits, default=default)
        for name in names:
            self.load(name)
        return names

    def load(self, name: str) -> None:
        """Asks for a model to be loaded."""
        model = self.models[name]
        model.failed_until, model.problem = 0.0, ""
        if model.state is State.DRAINING:
            model.move(State.LOADED, self._clock())
        elif model.state in (State.UNLOADED, State.ENDING):
            model.asked_since = self._clock()
        self._due.set()

    def unload(self, name: str) -> None:
        """Asks for a model to be unloaded when its answers are whole; one that is still loading is ended at once."""
        model = self.models[name]
        model.asked_since = None
        if model.state is State.LOADED:
            self._drain(model, Why.ASKED)
        elif model.state is State.LOADING:
            self._end(model)
        self._due.set()

    def report(self, router_id: str, uses: Mapping[str, Use]) -> None:
        """Takes what a router does with the models."""
        self._reports[router_id] = self._clock(), uses
        self._due.set()

    def ended(self, event: ChildEnded) -> None:
        """Takes note of a worker that ended by itself; one that can't be loaded is given up for a while."""
        model = next((one for one in self.models.values() if one.plan.service.spec.name == event.name), None)
        if model is None or model.state is not State.LOADING:
            return
        model.failure_count += 1
        if model.failure_count >= _MOST_FAILURES:
            model.problem = f"It ended {_MOST_FAILURES} times while loading ({event.cause}); its log says why."
            model.asked_since, model.failed_until = None, self._clock() + _FAILED_SECONDS
            self._end(model)

    async def run(self) -> None:
        """Keeps deciding until cancelled."""
        while True:
            await self.step()
            with suppress(TimeoutError):
                is_settled = all(model.state in _STAYING for model in self.models.values())
                async with asyncio.timeout(_SETTLED_SECONDS if is_settled else STEP_SECONDS):
                    await self._due.wait()
            self._due.clear()

    async def step(self) -> None:
        """Looks once at all models, and does what is due."""
        self._count_uses()
        await self._see_loaded()
        now = self._clock()
        steps = next_steps([model.resident(now) for model in self.models.values()], self._limits, now)
        for name in steps.load:
            self._load(self.models[name])
        for name, why in steps.drain:
            self._drain(self.models[name], why)
        for name in steps.keep:
            self.models[name].move(State.LOADED, now)
        for name in steps.end:
            self._end(self.models[name])

    def _count_uses(self) -> None:
        now = self._clock()
        self._reports = {key: report for key, report in self._reports.items() if now - report[0] < REPORT_SECONDS}
        for name, model in self.models.items():
            uses = [uses[name] for _, uses in self._reports.values() if name in uses]
            model.use = Use(sum(use.open_count for use in uses), sum(use.waiting_count for use in uses))
            if model.use.open_count + model.use.waiting_count:
                model.used_at = now
            model.waited_since = (model.waited_since or now) if model.use.waiting_count else None

    async def _see_loaded(self) -> None:
        loading = [model for model in self.models.values() if model.state is State.LOADING]
        for model in loading:
            if await self._answers(model.plan.service.address) and model.state is State.LOADING:  # still
                now = self._clock()
                model.loading_seconds, model.problem = now - model.state_since, ""
                model.asked_since, model.used_at = None, now
                model.move(State.LOADED, now)
                self.announce(f"model {model.plan.name} is loaded ({model.loading_seconds:.1f} s)")

    def _load(self, model: Keeping) -> None:
        model.failure_count = 0
        model.move(State.LOADING, self._clock())
        self._children.start(model.plan.service.spec)

    def _drain(self, model: Keeping, why: Why) -> None:
        model.why = why
        model.move(State.DRAINING, self._clock())

    def _end(self, model: Keeping) -> None:
        model.move(State.ENDING, self._clock())
        self._ending[model.plan.name] = asyncio.create_task(self._stop(model))

    async def _stop(self, model: Keeping) -> None:
        await self._children.stop(model.plan.service.spec.name, grace_seconds=_UNLOAD_GRACE_SECONDS)
        model.move(State.UNLOADED, self._clock())
        self.announce(f"model {model.plan.name} is unloaded")
        self._due.set()
