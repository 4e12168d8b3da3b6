"""What the person sees once everything serves."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from cli.console import err
from cli.server import ServedModel, ServerState


def print_banner(state: ServerState, status: str, *, devices: Sequence[str], logs: Path) -> None:
    """Prints where the server is, what it serves, and what to do next."""
    is_whole = status == "ok"
    title = "[bold green]LocalCode is ready[/]" if is_whole else f"[bold yellow]LocalCode is {escape(status)}[/]"
    default = str(state.health.get("model", ""))
    body = Group(
        _facts(state, devices, logs),
        "",
        models_table(state.models, default),
        "",
        "Point OpenCode at it   [cyan]localcode opencode --write[/]",
        "Warm its first prompt  [cyan]localcode warm[/]",
        "Stop it                [cyan]Ctrl-C[/]",
    )
    err.print(
        Panel(body, title=title, title_align="left", border_style="green" if is_whole else "yellow", expand=False)
    )


def models_table(models: Sequence[ServedModel], default: str) -> Table:
    """One line for each model; the default is marked."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("model")
    table.add_column("context", justify="right")
    table.add_column("runs at")
    table.add_column("also called", style="dim")
    for model in models:
        name = f"[bold]{escape(model.name)}[/]" + (" (default)" if model.name == default else "")
        context = f"{model.context:,}" if model.context else "?"
        table.add_row(name, context, _place(model), escape(", ".join(model.aliases)))
    return table


def _place(model: ServedModel) -> str:
    place = "this machine" if model.size_bytes or model.state == "unloaded" else escape(model.owner)
    return place if model.state in ("", "loaded") else f"{place} [dim]({escape(model.state)})[/]"


def _facts(state: ServerState, devices: Sequence[str], logs: Path) -> Table:
    facts = Table.grid(padding=(0, 3))
    facts.add_row("URL", f"[bold cyan]{escape(state.url)}/v1[/]")
    if devices:
        facts.add_row("Device", escape(", ".join(devices)))
    facts.add_row("Logs", escape(str(logs)))
    return facts
