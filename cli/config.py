"""Reads `localcode.toml`: which models there are and where things listen."""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import platformdirs

from cli.errors import CommandError
from edge.settings import EdgeSettings
from services.shared.settings import config_path, load_document, load_settings

_KINDS: Final = ("llama", "upstream")
_PACKAGED: Final = Path(__file__).parent / "localcode.toml"
_SHIPPED: Final = (_PACKAGED, Path(__file__).parent.parent / "localcode.toml")


@dataclass(frozen=True)
class ModelEntry:
    """One table `[models.<name>]`."""

    name: str
    kind: str
    values: Mapping[str, Any]
    draft: str = ""
    """Where the file of its draft model comes from, if it has one."""

    @property
    def is_local(self) -> bool:
        """Whether a worker on this machine runs it."""
        return self.kind == "llama"

    @property
    def source(self) -> str:
        """Where its file comes from: a catalogue name, a path, or `hf:REPO/FILE`."""
        return str(self.values.get("model_path") or self.values.get("source", ""))

    @property
    def sources(self) -> tuple[str, ...]:
        """Where all files that it needs here come from."""
        return tuple(source for source in (self.source, self.draft) if source) if self.is_local else ()

    @property
    def context(self) -> int | None:
        """Most tokens of one request, if configured."""
        value = self.values.get("context" if self.is_local else "context_length")
        return value if isinstance(value, int) else None

    @property
    def is_pinned(self) -> bool:
        """Whether it stays loaded where others are unloaded."""
        return self.values.get("pinned") is True

    @property
    def names(self) -> tuple[str, ...]:
        """All names it answers to."""
        return (self.name, *self.values.get("aliases", ()))


@dataclass(frozen=True)
class Configuration:
    """The whole file."""

    path: Path | None
    document: Mapping[str, Any]
    edge: EdgeSettings
    models: tuple[ModelEntry, ...]

    def value(self, table: str, key: str, default: str = "") -> str:
        """A setting of a service as that service will read it: the variable over the table."""
        variable = os.environ.get(f"LOCALCODE_{table.upper()}_{key.upper()}")
        return variable or str(self.document.get(table, {}).get(key) or default)

    @property
    def default_model(self) -> str:
        """The model of requests that name none."""
        return self.value("router", "default_model")


def load_configuration(path: Path | None = None) -> Configuration:
    """Reads a file, by default the one that the services would find, else the one that comes with the package."""
    if path is not None and not path.is_file():
        raise CommandError(f"--config names {path}, which is not a file.", exit_code=2)
    path = path or config_path() or next((shipped for shipped in _SHIPPED if shipped.is_file()), None)
    document = load_document(path) if path else {}
    edge = load_settings(EdgeSettings, "edge", document=document)
    return Configuration(path, document, edge, _models(document))


def editable_path(configuration: Configuration) -> Path:
    """The file to change; what comes with an installed package is copied to the person's own directory first."""
    if configuration.path != _PACKAGED:
        return configuration.path or Path("localcode.toml")
    path = platformdirs.user_config_path("localcode") / "localcode.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_PACKAGED, path)
    return path


def choose_models(
    models: Iterable[ModelEntry], *, only: Iterable[str] = (), no_small: bool = False
) -> list[ModelEntry]:
    """The models to run. `only` names them, and upstream models always stay, since they cost nothing."""
    models, wanted = list(models), list(only)
    known = {model.name for model in models}
    for name in wanted:
        if name not in known:
            raise CommandError(
                f"No model {name!r} in localcode.toml; there are: {', '.join(sorted(known))}.", exit_code=2
            )
    chosen = [model for model in models if not wanted or model.name in wanted or not model.is_local]
    return [model for model in chosen if not (no_small and model.name == "small")]


def client_host(host: str) -> str:
    """The host a client on this machine connects to when the server listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 compared, not bound
    return f"[{host}]" if ":" in host else host


def _models(document: Mapping[str, Any]) -> tuple[ModelEntry, ...]:
    tables = document.get("models", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise CommandError("localcode.toml: each model must be a table [models.<name>].", exit_code=2)
    return tuple(_entry(name, table, tables) for name, table in tables.items())


def _entry(name: str, table: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> ModelEntry:
    kind = table.get("kind", "llama")
    if kind not in _KINDS:
        raise CommandError(f"kind in [models.{name}] is {kind!r}; it must be one of {', '.join(_KINDS)}.", exit_code=2)
    draft = str(table.get("draft_path") or table.get("draft", ""))
    if draft in tables:  # another configured model
        draft = ModelEntry(draft, "llama", tables[draft]).source
    return ModelEntry(name, kind, table, draft)
