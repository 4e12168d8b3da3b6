"""The command `localcode`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli import cache_explain, cache_transfer  # noqa: F401  # they add their commands to `cache_app`
from cli.cache_commands import cache_app
from cli.config import load_configuration
from cli.console import err, human_bytes, out, say
from cli.doctor import examine, report
from cli.framework import Commands, ConfigOption, UrlOption, examples
from cli.model_commands import models_app
from cli.opencode import configuration_file, merge_into, merged, opencode_assignments
from cli.purge import purge as delete
from cli.purge import purge_targets, tree_bytes
from cli.server import api_key, ask, server_url
from cli.status import is_up, print_json, print_status
from cli.up import UpOptions, run_up
from cli.warm import warm_with_progress

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The server between a coding agent and the language models on your own hardware.",
)
app.add_typer(models_app, name="models")
app.add_typer(cache_app, name="cache")


@app.command(epilog=examples("localcode up", "localcode up --port 8080 --no-small", "localcode up --model coder"))
def up(
    config: ConfigOption = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 picks a free one.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Address to listen on; 0.0.0.0 opens it to the network.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Run only this local model; may be repeated.")
    ] = None,
    no_small: Annotated[bool, typer.Option("--no-small", help="Don't run the model `small`.")] = False,
) -> None:
    """Run the server: all services, until Ctrl-C."""
    run_up(UpOptions(config, host, port, tuple(model or ()), no_small))


@app.command("warm", epilog=examples("localcode warm", "localcode warm --dir ~/projects/mine"))
def warm_command(
    directory: Annotated[
        Path, typer.Option("--dir", exists=True, file_okay=False, help="Where you will work.")
    ] = Path(),
    url: UrlOption = None,
    timeout: Annotated[float, typer.Option(help="Longest time it may take, in seconds.")] = 900.0,
    config: ConfigOption = None,
) -> None:
    """Prefill OpenCode's first prompt, so that its first answer doesn't wait for it."""
    configuration = load_configuration(config)
    key = api_key(configuration)
    state = ask(url or server_url(configuration), key)
    result = warm_with_progress(state, directory.absolute(), key, timeout)
    say(
        "ok",
        f"Warm: {result.prompt_tokens:,} prompt tokens in {result.seconds:.1f} s, "
        f"{result.cached_tokens:,} of them were warm before.",
    )


@app.command(epilog=examples("localcode purge", "localcode purge --models --yes"))
def purge(
    models: Annotated[bool, typer.Option("--models", help="Delete the model files too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Delete what the server keeps: cached state and logs."""
    targets = purge_targets(with_models=models)
    if not targets:
        say("ok", "There is nothing to delete.")
        return
    for target in targets:
        out.print(f"   {escape(str(target))} [dim]({human_bytes(tree_bytes(target))})[/]")
    if not yes and not typer.confirm("Delete these?", err=True):
        raise typer.Exit(1)
    delete(targets)
    say("ok", "Deleted.")


@app.command("opencode", epilog=examples("localcode opencode", "localcode opencode --write"))
def opencode_command(
    write: Annotated[bool, typer.Option("--write", help="Merge it into OpenCode's configuration.")] = False,
    file: Annotated[
        Path | None, typer.Option("--file", help="Which file; by default the project's, else the user's.")
    ] = None,
    url: UrlOption = None,
    config: ConfigOption = None,
) -> None:
    """Print, or merge, what OpenCode needs to use this server."""
    configuration = load_configuration(config)
    wanted = opencode_assignments(configuration, url)
    if not write:
        out.print(escape(merged("{}\n", wanted)), end="")
        return
    path = file or configuration_file()
    backup = merge_into(path, wanted)
    say("ok", f"OpenCode uses this server: {escape(str(path))}")
    if backup:
        say("ok", f"Its former text is in {escape(str(backup))}")


@app.command("status", epilog=examples("localcode status", "localcode status --json", "localcode status --url URL"))
def status_command(
    url: UrlOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show how the running server is; exit code 1 if it can't answer."""
    configuration = load_configuration(config)
    state = ask(url or server_url(configuration), api_key(configuration))
    print_json(state) if as_json else print_status(state)
    raise typer.Exit(0 if is_up(state) else 1)


@app.command("doctor", epilog=examples("localcode doctor"))
def doctor_command(config: ConfigOption = None) -> None:
    """Check this machine, and say what to install or change."""
    configuration = load_configuration(config)
    with err.status("Looking around …"):
        results = examine(configuration)
    raise typer.Exit(0 if report(results) else 1)
