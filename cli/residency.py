"""Decides which models of this machine are loaded. Pure: all that matters is in the arguments."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

SETTLE_SECONDS: Final = 2.5
"""How long a model takes no new requests before it is unloaded. By then all routers have heard of it, and reported what
they had sent before: their reports are a second apart at most (`services/router/residency.py`)."""
PATIENCE_SECONDS: Final = 10.0
"""How long a model that someone waits for leaves the others alone while they are in use."""


class State(Enum):
    """Where a model is on its way into memory or out of it."""

    UNLOADED = auto()
    LOADING = auto()
    LOADED = auto()
    DRAINING = auto()
    """Finishes its answers and takes no new requests."""
    ENDING = auto()
    """Its process is on its way out, and writes what it knows to the store."""


class Why(Enum):
    """Why a model is drained."""

    ASKED = auto()
    IDLE = auto()
    ROOM = auto()
    """Another one needs its memory."""


@dataclass(frozen=True)
class Resident:
    """A model as it is now; times are seconds of the clock that `now` is read from."""

    name: str
    memory_bytes: int
    state: State = State.UNLOADED
    state_since: float = 0.0
    is_pinned: bool = False
    open_count: int = 0
    """Requests that its worker works on."""
    waiting_count: int = 0
    wanted_since: float | None = None
    """Since when someone waits for it; none if nobody does."""
    used_at: float = 0.0
    """When it was last in use."""
    why: Why = Why.ASKED
    """Why it is drained, if it is."""

    @property
    def is_in_use(self) -> bool:
        """Whether anybody works with it or wants to."""
        return self.open_count + self.waiting_count > 0


@dataclass(frozen=True)
class Limits:
    """What the models of this machine may take."""

    memory_bytes: int | None = None
    """Memory of all that are loaded; none means no limit."""
    idle_seconds: float = 0.0
    """After how long without use a model is unloaded; 0 means never."""


@dataclass(frozen=True)
class Steps:
    """What to do now."""

    load: tuple[str, ...] = ()
    drain: tuple[tuple[str, Why], ...] = ()
    keep: tuple[str, ...] = ()
    """Drained ones that someone wants again."""
    end: tuple[str, ...] = ()


def next_steps(models: Sequence[Resident], limits: Limits, now: float) -> Steps:
    """Loads what is wanted, drains what must make room or is idle, and ends what has drained."""
    load, room = _wanted(models, limits, now)
    drained = dict.fromkeys(room, Why.ROOM) | {
        model.name: Why.IDLE for model in models if _is_idle(model, limits, now) and model.name not in room
    }
    keep = tuple(model.name for model in models if model.why is Why.IDLE and _is_wanted_again(model))
    end = tuple(model.name for model in models if model.name not in keep and _has_drained(model, now))
    return Steps(load, tuple(drained.items()), keep, end)


def loaded_at_start(models: Sequence[Resident], limits: Limits, *, default: str) -> list[str]:
    """Names what is loaded before anybody asks: the pinned, the default, then the others as far as they fit."""
    free, names = limits.memory_bytes, []
    for model in sorted(models, key=lambda model: (not model.is_pinned, model.name != default)):
        if free is None or model.memory_bytes <= free:
            names.append(model.name)
            free = None if free is None else free - model.memory_bytes
    return names


def misfits(models: Sequence[Resident], limits: Limits) -> list[str]:
    """Names the models that can never be loaded: too large beside the pinned ones, or pinned without room."""
    if limits.memory_bytes is None:
        return []
    pinned_bytes = sum(model.memory_bytes for model in models if model.is_pinned)
    return [
        model.name
        for model in models
        if pinned_bytes + (0 if model.is_pinned else model.memory_bytes) > limits.memory_bytes
    ]


def _wanted(models: Sequence[Resident], limits: Limits, now: float) -> tuple[tuple[str, ...], list[str]]:
    """What can be loaded at once, and what must be drained for the one that waits longest without room."""
    waiting = [model for model in models if model.state is State.UNLOADED and model.wanted_since is not None]
    load: list[str] = []
    free = _free_bytes(models, limits)
    for model in sorted(waiting, key=lambda model: model.wanted_since or 0.0):
        if free is not None and model.memory_bytes > free:
            return tuple(load), _victims(models, model, free, now)  # those behind it must not take its room
        free = None if free is None else free - model.memory_bytes
        load.append(model.name)
    return tuple(load), []


def _victims(models: Sequence[Resident], wanted: Resident, free_bytes: int, now: float) -> list[str]:
    """The least recently used models that make enough room; those in use only once the wanted one has waited."""
    leaving = sum(model.memory_bytes for model in models if model.state in (State.DRAINING, State.ENDING))
    missing = wanted.memory_bytes - free_bytes - leaving
    is_impatient = wanted.wanted_since is not None and now - wanted.wanted_since >= PATIENCE_SECONDS
    chosen: list[str] = []
    for model in sorted(models, key=lambda model: (model.is_in_use, model.used_at)):
        if missing <= 0:
            break
        may_go = not model.is_in_use or (is_impatient and now - model.state_since >= PATIENCE_SECONDS)
        if model.state is State.LOADED and not model.is_pinned and may_go:
            chosen.append(model.name)
            missing -= model.memory_bytes
    return chosen if missing <= 0 else []


def _free_bytes(models: Sequence[Resident], limits: Limits) -> int | None:
    if limits.memory_bytes is None:
        return None
    return limits.memory_bytes - sum(model.memory_bytes for model in models if model.state is not State.UNLOADED)


def _is_idle(model: Resident, limits: Limits, now: float) -> bool:
    is_candidate = model.state is State.LOADED and not model.is_pinned and not model.is_in_use
    return is_candidate and 0 < limits.idle_seconds <= now - model.used_at


def _is_wanted_again(model: Resident) -> bool:
    return model.state is State.DRAINING and model.waiting_count > 0


def _has_drained(model: Resident, now: float) -> bool:
    return model.state is State.DRAINING and model.open_count == 0 and now - model.state_since >= SETTLE_SECONDS
