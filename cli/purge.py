"""Deletes what the server has kept on this machine."""

import shutil
from pathlib import Path

from cli.errors import CommandError
from cli.paths import kv_directory, log_directory, models_directory, valkey_directory
from cli.running import find_running


def purge_targets(*, with_models: bool) -> list[Path]:
    """The directories that would be deleted and exist."""
    candidates = [kv_directory(), valkey_directory(), log_directory()] + ([models_directory()] if with_models else [])
    return [directory for directory in candidates if directory.exists()]


def purge(directories: list[Path]) -> None:
    """Deletes directories, unless a server uses them."""
    if running := find_running():
        raise CommandError(f"LocalCode runs at {running.url} (process {running.pid}). Stop it first.")
    for directory in directories:
        shutil.rmtree(directory)


def tree_bytes(directory: Path) -> int:
    """The size of all files in a directory."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())
