"""Asks a running server how it is and which models it has."""

import json
from dataclasses import dataclass
from typing import Any, Final

import httpx

from cli.config import Configuration, client_host
from cli.errors import CommandError
from cli.running import find_running

ANY_KEY: Final = "localcode"
"""What clients send while no keys are configured."""
_TIMEOUT_SECONDS: Final = 5.0


@dataclass(frozen=True)
class ServedModel:
    """A model as `/v1/models` describes it."""

    name: str
    aliases: tuple[str, ...]
    context: int
    owner: str
    size_bytes: int
    state: str = ""
    """`loaded`, `unloaded` or in between; empty if the server doesn't say."""


class NoServerError(CommandError):
    """Nothing listens at the server's address."""


@dataclass(frozen=True)
class ServerState:
    """What a server says of itself."""

    url: str
    health: dict[str, Any]
    models: tuple[ServedModel, ...]


def server_url(configuration: Configuration) -> str:
    """Where this user's server is: the one that runs, else the one that would be started."""
    running = find_running()
    if running and running.url:
        return running.url
    return f"http://{client_host(configuration.edge.host)}:{configuration.edge.port}"


def api_key(configuration: Configuration) -> str:
    """A key that the server accepts."""
    return next((key.get_secret_value() for key in configuration.edge.api_keys), ANY_KEY)


def ask(url: str, key: str) -> ServerState:
    """Reads health and models; a server that doesn't answer is an error that says how to start one."""
    url = url.rstrip("/")
    try:
        with httpx.Client(base_url=url, timeout=_TIMEOUT_SECONDS, trust_env=False) as client:
            health = client.get("/health").json()
            answer = client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
    except httpx.TransportError as error:
        raise NoServerError(f"No server answers at {url}. Start it with: localcode up") from error
    except json.JSONDecodeError as error:
        raise CommandError(f"What answers at {url} is not LocalCode. Name the server with --url.") from error
    if not isinstance(health, dict) or health.get("provider") != "LocalCode":
        raise CommandError(f"What answers at {url} is not LocalCode. Name the server with --url.")
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise CommandError(f"{url} wants a key: put one of its [edge] api_keys into LOCALCODE_EDGE_API_KEYS.")
    return ServerState(url, health, read_models(answer.json()) if answer.is_success else ())


def read_models(answer: dict[str, Any]) -> tuple[ServedModel, ...]:
    """Reads `/v1/models`, each model once."""
    return tuple(_model(entry) for entry in answer.get("data", []) if entry["id"] == entry.get("root", entry["id"]))


def _model(entry: dict[str, Any]) -> ServedModel:
    return ServedModel(
        name=entry["id"],
        aliases=tuple(entry.get("aliases", ())),
        context=int(entry.get("context_length") or 0),
        owner=str(entry.get("owned_by", "")),
        size_bytes=int(entry.get("meta", {}).get("size") or 0),
        state=str(entry.get("state", "")),
    )
