from contextlib import suppress
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.errors import CommandError
from cli.gguf_header import context_length, read_metadata, shards


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "tiny")
    writer.add_name("Tiny")
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "→"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    writer.add_context_length(4096)
    writer.add_float32("x.scale", 0.25)
    writer.add_bool("x.flag", True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_numbers_and_texts_are_read_and_lists_are_skipped(model: Path) -> None:
    metadata = read_metadata(model)
    assert {key: metadata[key] for key in ("general.name", "x.scale", "x.flag")} == {
        "general.name": "Tiny",
        "x.scale": 0.25,
        "x.flag": True,
    }
    assert context_length(metadata) == 4096
    assert "tokenizer.ggml.tokens" not in metadata


def test_a_file_that_is_cut_off_is_an_error_at_every_length(model: Path) -> None:
    data = model.read_bytes()
    for length in range(len(data)):
        model.write_bytes(data[:length])
        with pytest.raises(CommandError, match="not a usable GGUF file"):
            read_metadata(model)


@given(st.binary(max_size=200))
def test_garbage_behind_the_magic_never_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + data)
    with suppress(CommandError):
        assert isinstance(read_metadata(path), dict)


def test_another_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_text("hello, world")
    with pytest.raises(CommandError, match="doesn't begin with the magic GGUF"):
        read_metadata(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="Can't read"):
        read_metadata(tmp_path / "none.gguf")


def test_any_shard_names_all_shards() -> None:
    assert shards("m-00002-of-00002.gguf") == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert shards("m.gguf") == ["m.gguf"]
