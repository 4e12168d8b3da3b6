"""Downloads model files with a progress bar."""

from collections.abc import Iterable

from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cli.console import err, human_bytes, say
from cli.download import fetch
from cli.errors import CommandError
from cli.hub import Advance
from cli.sources import WantedFile, missing_files, wanted_files


def pull(source: str) -> None:
    """Makes all files of a model present."""
    missing = missing_files(source)
    unknown = [file.path for file in missing if file.hub is None]
    if unknown:
        raise CommandError(f"There is no model file {unknown[0]}. Correct `source`, or see `localcode models list`.")
    if missing:
        _pull_files(missing)
    else:
        say("ok", f"{escape(source)} is here: [dim]{escape(str(wanted_files(source)[0].path))}[/]")


def _pull_files(files: Iterable[WantedFile]) -> None:
    with _progress() as progress:
        for file in files:
            task = progress.add_task(file.path.name, total=file.catalog.size_bytes if file.catalog else None)
            fetch(file, advance=_advance(progress, task), note=lambda text: say("warning", escape(text)))
            size = file.path.stat().st_size
            say("ok", f"{escape(file.path.name)} is here and verified [dim]({human_bytes(size)})[/]")


def _advance(progress: Progress, task: TaskID) -> Advance:
    def advance(done_bytes: int, total_bytes: int | None) -> None:
        if total_bytes is not None:
            progress.update(task, total=total_bytes)
        progress.update(task, completed=done_bytes)

    return advance


def _progress() -> Progress:
    return Progress(
        TextColumn(" {task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
