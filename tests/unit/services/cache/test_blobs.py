import errno
import os
import stat
from hashlib import sha256
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from services.cache.blobs import Blobs, DirectoryBlobs, ObjectBlobs, open_blobs
from services.shared import blob_directory
from services.shared.errors import StoreFull
from services.shared.settings import ConfigurationError

HASHES = [sha256(bytes([number])).digest() for number in range(5)]


@pytest.fixture(params=["directory", "object store"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return DirectoryBlobs(tmp_path / "kv") if request.param == "directory" else ObjectBlobs(MemoryStore(), "memory:")


async def listed(blobs: Blobs) -> dict[bytes, int]:
    return {block_hash: size async for piece in blobs.list() for block_hash, size in piece}


async def test_a_blob_comes_back_as_it_was_written(blobs: Blobs) -> None:
    for blob in (b"one", bytearray(b"two"), memoryview(b"three")):
        await blobs.write(HASHES[0], blob)
        assert await blobs.read(HASHES[0]) == blob
        assert await blobs.size(HASHES[0]) == len(blob)


async def test_the_beginning_of_a_blob_can_be_read(blobs: Blobs) -> None:
    await blobs.write(HASHES[0], b"abcdef")
    assert await blobs.read(HASHES[0], limit=3) == b"abc"
    assert await blobs.read(HASHES[0], limit=100) == b"abcdef"


async def test_a_blob_that_is_not_there_is_no_error(blobs: Blobs) -> None:
    assert await blobs.read(HASHES[0]) is None
    assert await blobs.read(HASHES[0], limit=10) is None
    assert await blobs.size(HASHES[0]) is None
    await blobs.delete(HASHES[0])


async def test_all_blobs_are_listed_with_their_sizes(blobs: Blobs) -> None:
    for length, block_hash in enumerate(HASHES):
        await blobs.write(block_hash, bytes(length))
    await blobs.delete(HASHES[2])
    assert await listed(blobs) == {block_hash: length for length, block_hash in enumerate(HASHES) if length != 2}


def files_of(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_the_path_is_the_hash_in_two_levels() -> None:
    path = blob_directory.blob_path(b"\xab\xcd" + bytes(30))
    assert path == f"ab/cd/abcd{'0' * 60}"
    assert blob_directory.hash_of_path(path) == b"\xab\xcd" + bytes(30)
    for other in ("ab/cd/.new-1", "ab/cd/abcd", f"cd/ab/abcd{'0' * 60}", "store_id"):
        assert blob_directory.hash_of_path(other) is None


async def test_only_the_owner_may_read_a_directory_of_blobs(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path / "kv")
    await blobs.write(HASHES[0], b"x")
    assert stat.S_IMODE((tmp_path / "kv").stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files_of(tmp_path))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_is_named_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    blobs = DirectoryBlobs(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull):
        await blobs.write(HASHES[0], b"x")
    assert await listed(blobs) == {}
    assert [path.name for path in files_of(tmp_path)] == ["store_id"]


async def test_what_a_killed_writer_left_is_deleted_once_it_is_old(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    await blobs.write(HASHES[0], b"x")
    folder = (tmp_path / blob_directory.blob_path(HASHES[0])).parent
    old, new = folder / ".new-old", folder / ".new-new"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (1, 1))
    assert await blobs.tidy() == 1
    assert (old.exists(), new.exists(), await blobs.size(HASHES[0])) == (False, True, 1)


async def test_a_directory_keeps_its_id_and_others_have_another(tmp_path: Path) -> None:
    first, again, other = (DirectoryBlobs(tmp_path / name) for name in ("a", "a", "b"))
    assert first.store_id == again.store_id != other.store_id
    assert len(first.store_id) == 32


async def test_services_that_start_at_once_give_their_directory_one_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = DirectoryBlobs(tmp_path)
    name = first.store_id
    with monkeypatch.context() as patch:
        patch.setattr("services.shared.blob_directory.read_store_id", lambda _directory: "")
        second = DirectoryBlobs(tmp_path)
    assert first.store_id == second.identity == name
    assert [path.name for path in files_of(tmp_path)] == ["store_id"]


def test_locations_are_paths_or_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_blobs(str(tmp_path / "a")).directory == tmp_path / "a"
    assert open_blobs(f"file://{tmp_path}/b").directory == tmp_path / "b"
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert open_blobs("s3://bucket/kv").storage == "s3://bucket/kv"


@pytest.mark.parametrize("location", ["/dev/null/kv", "teapot://x"])
def test_a_location_that_is_none_is_named(location: str) -> None:
    with pytest.raises(ConfigurationError, match="blob_url"):
        open_blobs(location)
