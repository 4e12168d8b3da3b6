"""Shows how a running server is."""

import json
import sys
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from cli.banner import models_table
from cli.console import out
from cli.server import ServerState

_COLOURS = {"ok": "green", "degraded": "yellow"}


def print_status(state: ServerState) -> None:
    """Prints the services and the models."""
    status = str(state.health.get("status", "unknown"))
    out.print(f"LocalCode at [cyan]{escape(state.url)}[/] is {_coloured(status)}")
    out.print()
    out.print(_services_table(state.health.get("services", {})))
    if state.models:
        out.print()
        out.print(models_table(state.models, str(state.health.get("model", ""))))


def print_json(state: ServerState) -> None:
    """Prints the same for programs."""
    models = [asdict(model) for model in state.models]
    sys.stdout.write(json.dumps({"url": state.url, **state.health, "models": models}, indent=2) + "\n")


def is_up(state: ServerState) -> bool:
    """Whether anything can answer."""
    return state.health.get("status") in _COLOURS


def _services_table(services: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("service", "state", "running", "waiting"):
        table.add_column(column, justify="right" if column in ("running", "waiting") else "left")
    for name, service in services.items():
        if isinstance(service, dict):
            table.add_row(escape(name), _coloured(str(service.get("status", "unknown"))), "", "")
    for worker in services.get("workers", []):
        table.add_row(*_worker_row(worker))
    return table


def _worker_row(worker: dict[str, Any]) -> tuple[str, str, str, str]:
    state = "draining" if worker.get("draining") else "ok" if worker.get("healthy") else "unhealthy"
    name = f"worker {escape(', '.join(worker.get('models', [])))}"
    return name, _coloured(state), str(worker.get("running", "")), str(worker.get("waiting", ""))


def _coloured(status: str) -> str:
    return f"[{_COLOURS.get(status, 'red')}]{escape(status)}[/]"
