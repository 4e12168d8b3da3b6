"""What all commands share: how errors end them, and the options that several have."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.console import fail
from cli.errors import CommandError
from services.shared.settings import ConfigurationError


class Commands(typer.core.TyperGroup):
    """A group of commands whose errors are one line each."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; its error becomes a line and an exit code."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            fail(error.message)
            raise typer.Exit(error.exit_code) from error
        except ConfigurationError as error:
            fail(str(error))
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(130) from error


ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="The configuration; by default localcode.toml.")
]
UrlOption = Annotated[str | None, typer.Option("--url", metavar="URL", help="The server; by default this user's own.")]


def examples(*lines: str) -> str:
    """The last lines of a command's help."""
    return "[bold]Examples[/]\n\n" + "\n\n".join(f"  [cyan]{escape(line)}[/]" for line in lines)
