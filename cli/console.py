"""Where commands print: results to the output stream, everything else to the error stream."""

from rich.console import Console
from rich.markup import escape

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]", "busy": "[cyan]…[/]"}


def say(mark: str, text: str) -> None:
    """Prints one line of progress; `text` may hold rich markup."""
    err.print(f" {MARKS[mark]} {text}")


def fail(message: str) -> None:
    """Prints why a command ended; the message is taken literally."""
    err.print(f"[bold red]Error:[/] {escape(message)}")


def human_bytes(count: int) -> str:
    """Formats a number of bytes in decimal units."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
