"""Reads the metadata of a GGUF file: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

import re
import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

from cli.errors import CommandError

_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING: Final = 8
_ARRAY: Final = 9
_MAX_PAIRS: Final = 100_000
_MAX_STRING_BYTES: Final = 16 * 1024 * 1024
_MAX_ITEMS: Final = 10_000_000
_SHARD: Final = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def read_metadata(path: Path) -> dict[str, Any]:
    """Reads all scalar and string metadata; arrays are left out. A file that is no GGUF file is an error."""
    try:
        with path.open("rb") as file:
            return _read_pairs(file)
    except OSError as error:
        raise CommandError(f"Can't read {path}: {error.strerror}.") from error
    except (ValueError, struct.error) as error:
        raise CommandError(f"{path} is not a usable GGUF file: {error}.") from error


def context_length(metadata: dict[str, Any]) -> int | None:
    """The context the model was trained for."""
    value = metadata.get(f"{metadata.get('general.architecture', '')}.context_length")
    return value if isinstance(value, int) else None


def shards(name: str) -> list[str]:
    """The names of all files of a split model, in order; of any other, just its own."""
    match = _SHARD.search(name)
    if match is None:
        return [name]
    stem, count = name[: match.start()], int(match[2])
    return [f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def _read_pairs(file: BinaryIO) -> dict[str, Any]:
    if file.read(4) != b"GGUF":
        raise ValueError("it doesn't begin with the magic GGUF")
    version, _tensor_count, pair_count = struct.unpack("<IQQ", _take(file, 20))
    if version not in (2, 3):
        raise ValueError(f"its format version {version} is unknown")
    metadata = {}
    for _ in range(_bounded(pair_count, _MAX_PAIRS)):
        key = _string(file)
        value = _value(file, _number(file, "I"))
        if value is not None:
            metadata[key] = value
    return metadata


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        return _skip_array(file)
    if kind not in _SCALARS:
        raise ValueError(f"a value has the unknown type {kind}")
    return _number(file, _SCALARS[kind])


def _skip_array(file: BinaryIO) -> None:
    kind, count = _number(file, "I"), _bounded(_number(file, "Q"), _MAX_ITEMS)
    if kind in _SCALARS:
        file.seek(count * struct.calcsize(_SCALARS[kind]), 1)
        return
    if kind != _STRING:
        raise ValueError("an array holds neither numbers nor strings")
    for _ in range(count):
        file.seek(_bounded(_number(file, "Q"), _MAX_STRING_BYTES), 1)


def _string(file: BinaryIO) -> str:
    size = _bounded(_number(file, "Q"), _MAX_STRING_BYTES)
    return _take(file, size).decode("utf-8", "replace")


def _number(file: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", _take(file, struct.calcsize(code)))[0]


def _take(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError("it is cut off")
    return data


def _bounded(value: int, limit: int) -> int:
    if value > limit:
        raise ValueError("a length in it is out of bounds")
    return value
