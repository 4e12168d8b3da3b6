"""Lists models, and adds new ones to `localcode.toml`."""

import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from cli.catalog import CATALOG
from cli.config import Configuration
from cli.console import human_bytes
from cli.errors import CommandError
from cli.gguf_header import context_length, read_metadata
from cli.sources import WantedFile, missing_files, model_path, wanted_files

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MOST_CONTEXT = 32_768
"""A longer context is the person's choice: its KV cache takes memory."""


@dataclass(frozen=True)
class NewModel:
    """What is known of a model that is about to be added."""

    name: str
    source: str
    architecture: str
    context: int


def sources_to_pull(configuration: Configuration, names: Iterable[str]) -> list[str]:
    """The sources of models named by configured name, catalogue name or `hf:…`; without names, of all configured."""
    local = [model for model in configuration.models if model.is_local]
    configured = {model.name: model.source for model in local}
    sources = [_source(name, configured) for name in names] or [source for model in local for source in model.sources]
    if not sources:
        raise CommandError("localcode.toml configures no local model; name one: localcode models list")
    return list(dict.fromkeys(sources))


def models_table(configuration: Configuration) -> Table:
    """All models that are configured or known by name, and whether their files are here."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("name")
    table.add_column("configured as")
    table.add_column("context", justify="right")
    table.add_column("size", justify="right")
    table.add_column("file", no_wrap=True)
    local = [model for model in configuration.models if model.is_local]
    names = {model.source: model.name for model in local}
    for source in dict.fromkeys([*(model.source for model in local), *CATALOG]):
        table.add_row(*_row(source, names.get(source, "")))
    for model in configuration.models:
        if not model.is_local:
            context = f"{model.context:,}" if model.context else ""
            table.add_row(escape(model.name), escape(model.name), context, "", "[dim]remote[/]")
    return table


def describe(source: str, name: str | None) -> NewModel:
    """Reads what a model is from its file."""
    path = model_path(source)
    if missing := missing_files(source):
        raise CommandError(f"There is no file {missing[0].path}.")
    metadata = read_metadata(path)
    context = context_length(metadata) or _MOST_CONTEXT
    title = name or str(metadata.get("general.name") or path.stem)
    kept = source if source.startswith("hf:") or source in CATALOG else str(path)
    architecture = str(metadata.get("general.architecture", "unknown"))
    return NewModel(name or _slug(title), kept, architecture, min(context, _MOST_CONTEXT))


def toml_table(model: NewModel) -> str:
    """The table to put into `localcode.toml`."""
    key = model.name if _BARE_KEY.fullmatch(model.name) else json.dumps(model.name)
    return (
        f"[models.{key}]\n"
        f'kind = "llama"\n'
        f"source = {json.dumps(model.source, ensure_ascii=False)}\n"
        f"context = {model.context}\n"
        f"slots = 2\n"
    )


def append_table(path: Path, model: NewModel) -> None:
    """Adds the table at the end of a file that names no such model yet."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    after = before.rstrip("\n") + ("\n\n" if before.strip() else "") + toml_table(model)
    if model.name in tomllib.loads(before).get("models", {}):
        raise CommandError(f"{path} has a model {model.name!r} already; give this one another name with --name.")
    tomllib.loads(after)  # a table that can't be added here must not spoil the file
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(after, encoding="utf-8")
    temporary.replace(path)


def _source(name: str, configured: dict[str, str]) -> str:
    if name in configured:
        return configured[name]
    if name in CATALOG or name.startswith("hf:"):
        return name
    known = ", ".join([*configured, *CATALOG])
    raise CommandError(f"No model is called {name!r}. Known: {known}; or hf:OWNER/REPO/FILE.gguf.", exit_code=2)


def _row(source: str, name: str) -> tuple[str, str, str, str, str]:
    known, files = CATALOG.get(source), wanted_files(source)
    size = known.size_bytes if known else sum(file.path.stat().st_size for file in files if file.is_present)
    context = f"{known.context:,}" if known else ""
    return escape(source), escape(name), context, human_bytes(size) if size else "?", _state(files)


def _state(files: list[WantedFile]) -> str:
    if all(file.is_present for file in files):
        return "[green]here[/]"
    if any(file.partial_path.exists() for file in files):
        done = sum(file.partial_path.stat().st_size for file in files if file.partial_path.exists())
        return f"[yellow]{human_bytes(done)} so far[/]"
    return "[dim]not pulled[/]" if files[0].hub else "[red]missing[/]"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "model"
