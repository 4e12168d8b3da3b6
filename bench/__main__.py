"""The command `python -m bench`."""

import asyncio
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import grpc
import httpx
import psutil
import typer
from rich.console import Console
from rich.markup import escape

from bench.launch import Machinery
from bench.machine import describe_machine, describe_versions
from bench.material import Material
from bench.policy.result import POLICY, policy_result
from bench.record import record
from bench.report import markdown, put_between_markers, terminal_table
from bench.results import Result, keep_result, read_results
from bench.runner import Rounds, run_workload
from bench.servers.llama_server import find_llama_server, version_of
from bench.servers.process import ServerFailed
from bench.sizes import FULL, QUICK
from bench.traces import read_traces
from bench.workloads import WORKLOADS
from cli.sources import model_path

HERE: Final = Path(__file__).parent
RECORDED: Final = HERE / ".recorded"
console: Final = Console(highlight=False, soft_wrap=True)
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measures LocalCode side by side with llama.cpp's llama-server.",
)
OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results.json, RESULTS.md and plots go.")]


@app.command("list")
def list_workloads() -> None:
    """List the workloads."""
    for workload in WORKLOADS.values():
        console.print(f"[bold]{workload.name:12}[/] {escape(workload.about)}")


@app.command()
def run(
    workloads: Annotated[list[str] | None, typer.Argument(help="Which; all by default.", metavar="WORKLOAD")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How often each is measured; 5, or 1 with --quick.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes, nothing saved: shows that all parts work.")
    ] = False,
    model: Annotated[
        str, typer.Option(help="Path or catalogue name of the small model, which most workloads use.")
    ] = "qwen2.5-coder-0.5b",
    main_model: Annotated[str, typer.Option(help="The same for the main model (tools, title).")] = "qwen2.5-coder-1.5b",
    traces: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Recorded requests to use in the place of generated ones."),
    ] = None,
    scenario: Annotated[
        list[str] | None, typer.Option(help="Use only this scenario of the traces; may be repeated.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run only `localcode` or `llama-server`; may be repeated.")
    ] = None,
    llama_server: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="The peer's program.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of a step; the physical cores by default.")
    ] = None,
    cells: Annotated[int, typer.Option(min=1024, help="Tokens of the KV cache.")] = 65_536,
    cache_type: Annotated[str, typer.Option(help="Type of cached keys and values.")] = "f16",
    url: Annotated[str | None, typer.Option(help="Measure a server that runs already instead.")] = None,
    url_model: Annotated[str, typer.Option(help="Its name of the model.")] = "main",
    out: OutOption = HERE,
    save: Annotated[bool | None, typer.Option("--save/--no-save", help="Keep the results; not with --quick.")] = None,
) -> None:
    """Measure workloads and print their tables."""
    if unknown := set(workloads or ()) - set(WORKLOADS):
        raise typer.BadParameter(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    program = llama_server or find_llama_server()
    threads = threads or psutil.cpu_count(logical=False) or 1
    machinery = Machinery(
        small_model=model_path(model).absolute(),
        main_model=model_path(main_model).absolute(),
        threads=threads,
        cells=cells,
        cache_type=cache_type,
        llama_server=program.absolute() if program else None,
        url=url,
        url_model=url_model,
    )
    folder = traces or (RECORDED if RECORDED.is_dir() and not quick else None)
    try:
        material = Material.of(QUICK if quick else FULL, folder, scenario or ())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    saves = not quick if save is None else save
    versions, machine = describe_versions(version_of(program) if program else None), describe_machine()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers end with it, as at Ctrl-C
    failed = []
    for name in workloads or WORKLOADS:
        rounds_of_it = 1 if WORKLOADS[name].once else rounds or (1 if quick else 5)
        try:
            measured = _measure(name, machinery, material, rounds_of_it, only or [])
        except (RuntimeError, httpx.HTTPError, ServerFailed, grpc.RpcError) as error:
            notes = "\n".join([str(error) or repr(error), *getattr(error, "__notes__", ())])
            console.print(f"[red]{name} failed:[/] {escape(notes)}\n")
            failed.append(name)  # hours of other measurements must not be lost
            continue
        options = _options(name, machinery, material, rounds_of_it)
        date = datetime.now(UTC).date().isoformat()
        result = Result(name, WORKLOADS[name].about, date, options, machine, versions, measured)
        if result.contestants:
            console.print(terminal_table(result), "")
            if saves and not url:
                keep_result(out / "results.json", result)
                _report(out)
    if failed:
        raise typer.Exit(1)


@app.command()
def report(out: OutOption = HERE) -> None:
    """Write the tables and plots of RESULTS.md anew from results.json."""
    _report(out)


@app.command("policy")
def measure_policy(
    traces: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Recorded requests; without them that day is left out."),
    ] = None,
    out: OutOption = HERE,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Keep the results.")] = True,
) -> None:
    """Try the KV store's policy against plain LRU on days of requests, in virtual time and without any model."""
    folder = traces or (RECORDED if RECORDED.is_dir() else None)
    result = policy_result(read_traces(folder) if folder else {})
    console.print(terminal_table(result), "")
    if save:
        keep_result(out / "results.json", result)
        _report(out)


@app.command("record-opencode")
def record_opencode(
    program: Annotated[Path | None, typer.Option(exists=True, help="OpenCode; by default the one on the PATH.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the traces.")] = RECORDED,
) -> None:
    """Record the prompt of the installed OpenCode, which `run` then uses by itself."""
    count = asyncio.run(record(out, program))
    console.print(f"{count} requests are in {escape(str(out))}")


def _measure(name: str, machinery: Machinery, material: Material, rounds: int, only: list[str]) -> Rounds:
    workload = WORKLOADS[name]
    console.print(f"[bold]{name}[/]: {escape(workload.about)}")

    def tell(text: str) -> None:
        console.print(f"  {escape(text)}")

    return asyncio.run(run_workload(workload, machinery, material, rounds=rounds, only=only, tell=tell))


def _options(name: str, machinery: Machinery, material: Material, rounds: int) -> dict[str, object]:
    workload = WORKLOADS[name]
    files = {"small": machinery.small_model.name, "main": machinery.main_model.name, "scripted": "scripted"}
    return {
        "model": files[workload.model],
        "rounds": rounds,
        "threads": machinery.threads,
        "KV cells": machinery.cells,
        "KV type": machinery.cache_type,
        "slots": workload.slots,
        "requests": material.source,
    }


def _report(out: Path) -> None:
    results = read_results(out / "results.json")
    ordered = {name: results[name] for name in (*WORKLOADS, POLICY) if name in results}
    try:
        from bench.plots import draw

        plots = [
            str(path.relative_to(out))
            for path in draw({name: ordered[name] for name in ordered if name in WORKLOADS}, out / "plots")
        ]
    except ImportError:
        console.print("No plots: matplotlib is missing (`make bench` installs it)")
        plots = []
    file = out / "RESULTS.md"
    text = file.read_text(encoding="utf-8") if file.exists() else "# Results\n"
    file.write_text(put_between_markers(text, markdown(ordered.values(), plots)), encoding="utf-8")


if __name__ == "__main__":
    app()
