"""What a workload is: a measurement that is taken of several contestants in turn."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from bench.material import Material
from bench.servers.target import Target
from bench.sizes import Sizes

Better = Literal["higher", "lower", ""]
DETAIL: Final = "detail"
"""The unit of samples that are kept with the results but stand in no table."""


@dataclass(frozen=True)
class Sample:
    """One number that was measured."""

    name: str
    value: float
    unit: str
    better: Better = ""


@dataclass(frozen=True)
class Contestant:
    """A server in one configuration."""

    name: str
    program: Literal["localcode", "llama-server"]
    settings: Mapping[str, object] = field(default_factory=dict)
    """Added to our model's table in `localcode.toml`."""
    two_models: bool = False
    """Whether the small model is served beside the main one."""
    workers: int = 1
    """How many processes run the main model."""
    swaps_models: bool = False
    """Whether the main model takes the small one's place for a while."""
    saves_slots: bool = False
    """Whether slots are saved and restored by hand (llama-server)."""


@dataclass(frozen=True)
class Round:
    """What a measurement may use; the same for every contestant of a round."""

    number: int
    material: Material

    @property
    def sizes(self) -> Sizes:
        """How much to ask for."""
        return self.material.sizes

    def salt(self, purpose: str) -> str:
        """A first line that no earlier prompt began with."""
        return f"[{purpose} {self.number}]"


OURS: Final = Contestant("localcode", "localcode")
PEER: Final = Contestant("llama-server", "llama-server")
Measure = Callable[[Target, Round], Awaitable[list[Sample]]]
Prepare = Callable[[Target, Material], Awaitable[None]]


@dataclass(frozen=True)
class Workload:
    """A measurement, and how the servers are run for it."""

    name: str
    about: str
    measure: Measure
    prepare: Prepare | None = None
    """Done once after a server has started."""
    contestants: tuple[Contestant, ...] = (OURS, PEER)
    """Ratios are those of the first to each other one."""
    model: Literal["small", "main", "scripted"] = "small"
    fresh: bool = True
    """Whether each round gets newly started servers, one alone at a time; else all live at once and take turns."""
    slots: int = 4
    restarts: bool = False
    """Whether servers are restarted in between."""
    once: bool = False
    """Whether repeating it would only give the same numbers again."""
