"""Turns what a model's `source` says into files on this machine and places to get them from."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cli.catalog import CATALOG, CatalogModel, HubFile
from cli.errors import CommandError
from cli.gguf_header import shards
from cli.paths import models_directory


@dataclass(frozen=True)
class WantedFile:
    """One file a model needs: where it lies, and where it can be had, if anywhere."""

    path: Path
    hub: HubFile | None = None
    catalog: CatalogModel | None = None

    @property
    def is_present(self) -> bool:
        """Whether the whole file is here."""
        return self.path.is_file()

    @property
    def partial_path(self) -> Path:
        """Where a download grows."""
        return self.path.with_name(self.path.name + ".part")


def wanted_files(source: str) -> list[WantedFile]:
    """All files of a model, the one to load first: a catalogue name, `hf:OWNER/REPO/FILE`, or a path."""
    if source in CATALOG:
        model = CATALOG[source]
        return [WantedFile(models_directory() / model.file_name, model.hub, model)]
    if source.startswith("hf:"):
        return [_hub_file(source, name) for name in shards(source.removeprefix("hf:"))]
    path = Path(source).expanduser()
    if not path.name:
        raise CommandError(
            f"{source!r} names no model file: it must be a catalogue name, a path, or hf:OWNER/REPO/FILE."
        )
    return [WantedFile(path.with_name(name).absolute()) for name in shards(path.name)]


def missing_files(source: str) -> list[WantedFile]:
    """The files of a model that are not here yet."""
    return [file for file in wanted_files(source) if not file.is_present]


def model_path(source: str) -> Path:
    """The file that a worker loads."""
    return wanted_files(source)[0].path


def _hub_file(source: str, name: str) -> WantedFile:
    parts = PurePosixPath(name).parts
    if len(parts) < 3 or ".." in parts or not name.endswith(".gguf"):
        raise CommandError(f"{source!r} is not of the form hf:OWNER/REPO/FILE.gguf.", exit_code=2)
    hub = HubFile(f"{parts[0]}/{parts[1]}", "/".join(parts[2:]))
    return WantedFile(models_directory() / f"{parts[0]}--{parts[1]}" / Path(*parts[2:]), hub)
