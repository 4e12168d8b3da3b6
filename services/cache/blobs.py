"""Where sealed blobs are kept: a directory, or an object store through `obstore`.

The directory has code of its own (`services/shared/blob_directory.py`): workers write to it too, and `obstore`'s local
store doesn't sync what it writes to the disk.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import ObjectStore, from_url

from services.shared import blob_directory
from services.shared.blob_directory import blob_path, hash_of_path, make_store, read_store_id
from services.shared.errors import StoreUnavailable
from services.shared.sealing import Buffer
from services.shared.settings import ConfigurationError

_ABANDONED_SECONDS: Final = 3600.0
_LISTED_AT_ONCE: Final = 1000


class Blobs(Protocol):
    """Keeps blobs by hash. Every call may raise `StoreUnavailable`."""

    storage: str
    """The directory's path, or the URL."""
    directory: Path | None
    """The directory, where there is one."""

    @property
    def store_id(self) -> str:
        """Tells the directory from others of the same path; empty for an object store."""

    @property
    def identity(self) -> str:
        """Tells these blobs from others whose index is on the same Redis."""

    async def write(self, block_hash: bytes, blob: Buffer) -> None:
        """Writes a blob whole and durably, over one of the same hash. Raises `StoreFull`."""

    async def read(self, block_hash: bytes, *, limit: int | None = None) -> bytes | None:
        """Reads a blob, or its first bytes; None if it is not there."""

    async def size(self, block_hash: bytes) -> int | None:
        """Bytes of a blob; None if it is not there."""

    async def delete(self, block_hash: bytes) -> None:
        """Deletes a blob, if it is there."""

    def list(self) -> AsyncIterator[list[tuple[bytes, int]]]:
        """Lists hash and size of all blobs, in pieces."""

    async def free_bytes(self) -> int | None:
        """Bytes that are free on the disk; None where there is no end of them."""

    async def tidy(self) -> int:
        """Deletes what killed writers left behind, and counts it."""


class DirectoryBlobs:
    """Blobs in a directory of this machine, or of a file system that workers share."""

    def __init__(self, directory: Path) -> None:
        self.directory: Path | None = directory
        self._directory = directory
        self.storage = str(directory)
        make_store(directory)

    @property
    def store_id(self) -> str:
        """Read anew each time: another directory may be mounted here by now."""
        return read_store_id(self._directory)

    @property
    def identity(self) -> str:
        """The directory's id, wherever it is mounted."""
        return self.store_id

    async def write(self, block_hash: bytes, blob: Buffer) -> None:
        """Writes a blob whole and durably."""
        await asyncio.to_thread(blob_directory.write_blob, self._directory, block_hash, blob)

    async def read(self, block_hash: bytes, *, limit: int | None = None) -> bytes | None:
        """Reads a blob, or its first bytes."""
        length = -1 if limit is None else limit
        return await asyncio.to_thread(blob_directory.read_blob, self._directory, block_hash, limit=length)

    async def size(self, block_hash: bytes) -> int | None:
        """Bytes of a blob."""
        return await asyncio.to_thread(blob_directory.blob_bytes, self._directory, block_hash)

    async def delete(self, block_hash: bytes) -> None:
        """Deletes a blob, if it is there."""
        await asyncio.to_thread(blob_directory.delete_blob, self._directory, block_hash)

    async def list(self) -> AsyncIterator[list[tuple[bytes, int]]]:
        """Lists hash and size of all blobs, in pieces."""
        if not await asyncio.to_thread(read_store_id, self._directory):  # a file system that is not mounted
            raise StoreUnavailable(f"The KV store's directory {self._directory} is gone.", retry_after_seconds=5.0)
        blobs = blob_directory.list_blobs(self._directory)
        while piece := await asyncio.to_thread(lambda: list(islice(blobs, _LISTED_AT_ONCE))):
            yield piece

    async def free_bytes(self) -> int | None:
        """Bytes that are free on the disk."""
        return (await asyncio.to_thread(shutil.disk_usage, self._directory)).free

    async def tidy(self) -> int:
        """Deletes what killed writers left behind."""
        return await asyncio.to_thread(
            blob_directory.delete_abandoned, self._directory, older_than_seconds=_ABANDONED_SECONDS
        )


class ObjectBlobs:
    """Blobs in an object store; credentials come from its usual environment variables."""

    directory: Path | None = None
    store_id = ""

    def __init__(self, store: ObjectStore, storage: str) -> None:
        self._store = store
        self.storage = storage
        self.identity = sha256(storage.encode()).hexdigest()[:32]

    async def write(self, block_hash: bytes, blob: Buffer) -> None:
        """Writes a blob whole; an object store shows no part of it before."""
        try:
            await obstore.put_async(self._store, blob_path(block_hash), blob, mode="overwrite")
        except BaseError as error:
            raise _unavailable(error) from error

    async def read(self, block_hash: bytes, *, limit: int | None = None) -> bytes | None:
        """Reads a blob, or its first bytes."""
        try:
            if limit is not None:
                return bytes(await obstore.get_range_async(self._store, blob_path(block_hash), start=0, end=limit))
            answer = await obstore.get_async(self._store, blob_path(block_hash))
            return bytes(await answer.bytes_async())
        except (NotFoundError, FileNotFoundError):
            return None
        except BaseError as error:
            raise _unavailable(error) from error

    async def size(self, block_hash: bytes) -> int | None:
        """Bytes of a blob."""
        try:
            return (await obstore.head_async(self._store, blob_path(block_hash)))["size"]
        except (NotFoundError, FileNotFoundError):
            return None
        except BaseError as error:
            raise _unavailable(error) from error

    async def delete(self, block_hash: bytes) -> None:
        """Deletes a blob, if it is there."""
        try:
            await obstore.delete_async(self._store, blob_path(block_hash))
        except (NotFoundError, FileNotFoundError):
            return
        except BaseError as error:
            raise _unavailable(error) from error

    async def list(self) -> AsyncIterator[list[tuple[bytes, int]]]:
        """Lists hash and size of all blobs, in pieces."""
        try:
            async for objects in obstore.list(self._store, chunk_size=_LISTED_AT_ONCE):
                found = [(hash_of_path(entry["path"]), entry["size"]) for entry in objects]
                yield [(block_hash, size) for block_hash, size in found if block_hash]
        except BaseError as error:
            raise _unavailable(error) from error

    async def free_bytes(self) -> int | None:
        """An object store has no end."""
        return None

    async def tidy(self) -> int:
        """An upload that was broken off leaves nothing that could be seen."""
        return 0


def open_blobs(location: str) -> Blobs:
    """Opens a directory (a path or `file://`), or an object store by its URL: `s3://`, `gs://`, `az://`."""
    url = urlsplit(location)
    if url.scheme in ("", "file"):
        path = Path(url.path if url.scheme else location).expanduser().absolute()
        try:
            return DirectoryBlobs(path)
        except OSError as error:
            raise ConfigurationError(
                f"blob_url in [cache]: can't use the directory {path}: {error.strerror}."
            ) from error
    try:
        return ObjectBlobs(from_url(location), f"{url.scheme}://{url.hostname or ''}{url.path}")
    except (BaseError, ValueError) as error:
        raise ConfigurationError(f"blob_url in [cache] names no store: {location.partition('?')[0]}") from error


def _unavailable(error: BaseError) -> StoreUnavailable:
    return StoreUnavailable(f"The object store does not answer ({type(error).__name__}).", retry_after_seconds=5.0)
