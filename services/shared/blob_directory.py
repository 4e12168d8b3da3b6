"""Blobs in a directory that several processes may share: a blob is there as a whole, or not at all."""

import errno
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from services.shared.errors import StoreFull
from services.shared.sealing import BEGINNING_BYTES, HASH_BYTES, Buffer, header_end

STORE_ID_FILE: Final = "store_id"
_TEMPORARY: Final = ".new-"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def blob_path(block_hash: bytes) -> str:
    """Where a blob lies below the directory, or which key it has in an object store: two levels of 256 each."""
    name = block_hash.hex()
    return f"{name[:2]}/{name[2:4]}/{name}"


def hash_of_path(path: str) -> bytes | None:
    """The hash of a blob's path; None for what is no blob."""
    try:
        block_hash = bytes.fromhex(path.rpartition("/")[2])
    except ValueError:
        return None
    return block_hash if len(block_hash) == HASH_BYTES and path.endswith(blob_path(block_hash)) else None


def read_store_id(directory: Path) -> str:
    """The text by which two processes see that their directory is the same one; empty where there is none."""
    try:
        return (directory / STORE_ID_FILE).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def make_store(directory: Path) -> None:
    """Makes the directory, only for its owner, and its id; of several processes that start at once, one names it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / STORE_ID_FILE
    if not read_store_id(directory):
        _write(path, secrets.token_hex(16).encode(), keeps_older=True)


def write_blob(directory: Path, block_hash: bytes, blob: Buffer) -> None:
    """Writes a blob so that it survives a loss of power once this returns. Raises `StoreFull` or `OSError`."""
    path = directory / blob_path(block_hash)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(path, blob)
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(f"No space is left in {directory} for a KV block of {len(blob)} bytes.") from error
        raise


def read_blob(directory: Path, block_hash: bytes, *, limit: int = -1) -> bytes | None:
    """Reads a blob, or its first bytes; None if it is not there. Raises `OSError` where the disk fails."""
    try:
        with (directory / blob_path(block_hash)).open("rb", buffering=0) as file:
            return file.read(limit)
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_beginning(directory: Path, block_hash: bytes) -> bytes | None:
    """Reads a blob at least up to the end of its header; None if it is not there. Raises `OSError`."""
    beginning = read_blob(directory, block_hash, limit=BEGINNING_BYTES)
    if beginning is None:
        return None
    end = header_end(beginning)
    return beginning if end <= len(beginning) else read_blob(directory, block_hash, limit=end)


def blob_bytes(directory: Path, block_hash: bytes) -> int | None:
    """The size of a blob; None if it is not there."""
    try:
        return (directory / blob_path(block_hash)).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def delete_blob(directory: Path, block_hash: bytes) -> None:
    """Deletes a blob, if it is there."""
    (directory / blob_path(block_hash)).unlink(missing_ok=True)


def list_blobs(directory: Path) -> Iterator[tuple[bytes, int]]:
    """Lists hash and size of all blobs, by hash within each folder."""
    for folder in _folders(directory):
        for entry in sorted(_entries(folder), key=lambda entry: entry.name):
            block_hash = hash_of_path(f"{folder.parent.name}/{folder.name}/{entry.name}")
            if block_hash and (size := blob_bytes(directory, block_hash)) is not None:
                yield block_hash, size


def delete_abandoned(directory: Path, *, older_than_seconds: float) -> int:
    """Deletes what writers that were killed left behind, and counts it."""
    count = 0
    for folder in _folders(directory):
        for entry in _entries(folder):
            if entry.name.startswith(_TEMPORARY) and _age_seconds(entry) > older_than_seconds:
                Path(entry).unlink(missing_ok=True)
                count += 1
    return count


def _write(path: Path, data: Buffer, *, keeps_older: bool = False) -> None:
    """Temporary file, fsync, rename, fsync of the directory. `keeps_older` lets a file stay that is there already."""
    temporary = path.with_name(_TEMPORARY + secrets.token_hex(8))
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            _write_all(file.fileno(), data)
            os.fsync(file.fileno())
        if keeps_older:
            _link(temporary, path)
        else:
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _link(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        temporary.replace(path)
    temporary.unlink(missing_ok=True)


def _write_all(descriptor: int, data: Buffer) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folders(directory: Path) -> Iterator[Path]:
    for first in sorted(directory.glob("[0-9a-f][0-9a-f]")):
        yield from sorted(first.glob("[0-9a-f][0-9a-f]"))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _age_seconds(entry: os.DirEntry[str]) -> float:
    try:
        return time.time() - entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0
