"""Names everything that shapes KV values, so that state is only reused where it is the same, on whatever machine."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

VERSION: Final = 1
"""Changes when what is hashed, or the form of saved state, changes."""
_SPLIT: Final = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_log = structlog.get_logger(__name__)


def fingerprint(parts: Mapping[str, str | int | float | bool | None]) -> bytes:
    """Hashes what shapes KV values, whatever its order."""
    text = json.dumps({"version": VERSION, **parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


def shards(path: Path) -> list[Path]:
    """All files of a model whose first file this is (`…-00001-of-00003.gguf`)."""
    split = _SPLIT.search(path.name)
    if split is None:
        return [path]
    count, stem = int(split[2]), path.name[: split.start()]
    return [path.with_name(f"{stem}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]


def model_digest(path: Path, memory: Path) -> str:
    """The sha256 of a model's files together; `memory` is a file that remembers those of files that did not change."""
    known = _read(memory)
    digests = {_identity(shard): shard for shard in shards(path)}
    missing = {identity: _sha256(shard) for identity, shard in digests.items() if identity not in known}
    if missing:
        _write(memory, known | missing)
    known |= missing
    return hashlib.sha256("".join(known[identity] for identity in digests).encode()).hexdigest()


def _identity(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(memory: Path, digests: Mapping[str, str]) -> None:
    """Writes the memory; without it the next start only takes longer."""
    beside = memory.with_suffix(f".{os.getpid()}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(digests, indent=1), encoding="utf-8")
        beside.replace(memory)
    except OSError as error:
        _log.info("digests_not_remembered", path=str(memory), reason=str(error))
