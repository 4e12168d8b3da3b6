"""A running server, as workloads see it: the same for ours and for a peer."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import httpx

from bench.client import Body, Timing, chat

REQUEST_TIMEOUT_SECONDS: Final = 3600.0
Tokenize = Callable[[Body], Awaitable[list[int]]]
Counters = Callable[[], Awaitable[Mapping[str, float]]]


@dataclass(frozen=True)
class Setup:
    """What every server is given alike."""

    model: Path
    threads: int
    cells: int
    """Tokens of the KV cache that all requests share, and the most that one may use."""
    cache_type: str = "f16"
    slots: int = 4
    small_model: Path | None = None
    """Served beside the first one, as `small`, by servers that can."""
    other_model: Path | None = None
    """Takes the first one's place for a while when models are swapped."""
    saves_slots: bool = False
    """Whether a person may save what a slot holds to a file, and restore it."""


class Parts(Protocol):
    """The processes of a server that can be restarted one by one."""

    async def restart_worker(self) -> None:
        """Ends the process that computes, which is then started again; returns when it answers."""
        ...

    async def restart_index(self) -> None:
        """Ends the database that knows what is stored; returns when it runs again."""
        ...

    async def swap_models(self) -> None:
        """Unloads the model, lets the other one answer, and loads the model again."""
        ...


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    http: httpx.AsyncClient
    names: Mapping[str, str]
    """What this server calls the models `main` and `small`."""
    tokenize: Tokenize | None = None
    """Renders a request's prompt and returns its tokens, where the server can say."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """gRPC addresses of the processes behind the server, by role."""
    restart: Callable[[], Awaitable["Target"]] | None = None
    """Ends the server and starts it again with all that it has on disk."""
    tokenize_text: Callable[[str], Awaitable[list[int]]] | None = None
    """Returns the tokens of an answer's text, where the server can say."""
    parts: Parts | None = None
    """Its processes, where it consists of several."""
    counters: Counters | None = None
    """What the worker of the main model counts, by the names of its metrics; where there is a small model beside it."""
    saves_slots: bool = False
    """Whether the state of its slots is to be saved and restored by hand."""

    async def chat(self, body: Body, headers: dict[str, str] | None = None, timing: Timing | None = None) -> Timing:
        """Sends a request to the model that it names."""
        return await chat(self.http, self.named(body), headers, timing)

    def named(self, body: Body) -> Body:
        """The request with the server's own name of its model."""
        return {**body, "model": self.names[body["model"]]}


def open_http(url: str) -> httpx.AsyncClient:
    """A client that waits long, and never through a proxy.

    llama-server closes a connection after a stream, which a client that keeps it learns too late now and then: so all
    servers are asked over a new connection each time.
    """
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_SECONDS, trust_env=False, limits=limits)
