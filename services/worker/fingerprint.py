"""Names everything that shapes KV values, so that state is only reused where it is the same."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path


def fingerprint(parts: Mapping[str, str | int | float | bool | None]) -> bytes:
    """Hashes what shapes KV values, whatever its order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).digest()


def file_identity(path: Path) -> str:
    """Tells one file of this machine from others and from its earlier content, without reading it."""
    status = path.stat()
    return f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
