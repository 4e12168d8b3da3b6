"""Looks for what keeps LocalCode from working, and says the remedy."""

from collections.abc import Iterable

from rich.markup import escape

from cli import checks
from cli.config import Configuration
from cli.console import MARKS, out
from cli.engine import probe_engine
from cli.running import find_running


def examine(configuration: Configuration) -> list[checks.Check]:
    """All checks, those first that others rest on."""
    engine, models = probe_engine(), configuration.models
    return [
        checks.check_python(),
        checks.check_compiler(engine),
        checks.check_engine(engine),
        checks.check_memory(models),
        *checks.check_model_files(models),
        *checks.check_disk(),
        checks.check_port(configuration.edge.host, configuration.edge.port, find_running()),
        checks.check_redis(configuration),
        *checks.check_client(),
    ]


def report(results: Iterable[checks.Check]) -> bool:
    """Prints one line for each check; says whether nothing is in the way."""
    results = list(results)
    width = max(len(result.name) for result in results)
    for result in results:
        out.print(f" {MARKS[result.level]} {escape(result.name):<{width}}  {escape(result.detail)}")
        if result.remedy:
            out.print(f"   {'':<{width}}  [cyan]→ {escape(result.remedy)}[/]")
    errors = sum(result.level == "error" for result in results)
    out.print()
    out.print(f"[bold red]{errors} to put right.[/]" if errors else "[bold green]Ready to run:[/] localcode up")
    return errors == 0
