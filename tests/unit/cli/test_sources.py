from pathlib import Path

import pytest

from cli.errors import CommandError
from cli.sources import missing_files, model_path, wanted_files


@pytest.fixture(autouse=True)
def models_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALCODE_MODELS_DIR", str(tmp_path))
    return tmp_path


def test_a_split_model_of_the_hub_has_all_its_shards(tmp_path: Path) -> None:
    files = wanted_files("hf:owner/repo/q8/big-00001-of-00003.gguf")
    assert [file.path for file in files] == [
        tmp_path / "owner--repo" / "q8" / f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3)
    ]
    assert str(files[2].hub) == "hf:owner/repo/q8/big-00003-of-00003.gguf"


def test_a_shard_that_is_missing_beside_a_local_file_is_noticed(tmp_path: Path) -> None:
    first = tmp_path / "m-00001-of-00002.gguf"
    first.touch()
    assert [file.path.name for file in missing_files(str(first))] == ["m-00002-of-00002.gguf"]


def test_the_first_shard_is_what_a_worker_loads(tmp_path: Path) -> None:
    assert model_path(str(tmp_path / "m-00002-of-00002.gguf")) == tmp_path / "m-00001-of-00002.gguf"


@pytest.mark.parametrize("source", ["hf:x.gguf", "hf:owner/repo", "hf:owner/repo/file.bin", "hf:a/../../x.gguf"])
def test_a_malformed_hub_name_is_refused(source: str) -> None:
    with pytest.raises(CommandError, match=r"not of the form hf:OWNER/REPO/FILE\.gguf"):
        wanted_files(source)


@pytest.mark.parametrize("source", ["", "/", "."])
def test_a_source_that_names_no_file_is_refused(source: str) -> None:
    with pytest.raises(CommandError, match="names no model file"):
        wanted_files(source)
