import tomllib
from pathlib import Path

import gguf
import pytest

from cli.config import Configuration, ModelEntry
from cli.console import human_bytes
from cli.errors import CommandError
from cli.models import NewModel, append_table, describe, sources_to_pull, toml_table
from edge.settings import EdgeSettings

CONFIGURATION = Configuration(
    None,
    {},
    EdgeSettings(),
    (
        ModelEntry("coder", "llama", {"source": "qwen2.5-coder-1.5b"}),
        ModelEntry("small", "llama", {"source": "qwen2.5-coder-0.5b"}),
        ModelEntry("glm-4.7", "upstream", {}),
    ),
)
MODEL = NewModel("mine", "/models/mine.gguf", "llama", 8192)


def write_gguf(path: Path, *, context: int = 131072) -> Path:
    writer = gguf.GGUFWriter(path, "tiny")
    writer.add_name("My Tiny Model!")
    writer.add_context_length(context)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_pull_means_all_configured_local_models() -> None:
    assert sources_to_pull(CONFIGURATION, []) == ["qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b"]


def test_pull_knows_configured_catalogue_and_hub_names() -> None:
    names = ["small", "qwen2.5-coder-0.5b", "smollm2-135m", "hf:o/r/f.gguf"]
    assert sources_to_pull(CONFIGURATION, names) == ["qwen2.5-coder-0.5b", "smollm2-135m", "hf:o/r/f.gguf"]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(CommandError, match=r"No model is called 'x'\. Known: coder, small, qwen2\.5-coder-1\.5b"):
        sources_to_pull(CONFIGURATION, ["x"])


def test_a_model_is_described_by_its_metadata(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf")
    assert describe(str(path), None) == NewModel("my-tiny-model", str(path), "tiny", 32768)


def test_a_name_and_a_short_context_are_kept(tmp_path: Path) -> None:
    model = describe(str(write_gguf(tmp_path / "x.gguf", context=2048)), "Mine")
    assert (model.name, model.context) == ("Mine", 2048)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x-00001-of-00002.gguf")
    with pytest.raises(CommandError, match=r"There is no file .*x-00002-of-00002\.gguf"):
        describe(str(path), None)


@pytest.mark.parametrize("name", ["mine", "glm-4.7", 'odd "name"', "späte"])
def test_the_table_is_toml_that_holds_the_model(name: str) -> None:
    table = tomllib.loads(toml_table(NewModel(name, 'C:\\"x".gguf', "llama", 8192)))
    assert table == {"models": {name: {"kind": "llama", "source": 'C:\\"x".gguf', "context": 8192, "slots": 2}}}


def test_the_table_is_added_at_the_end_and_all_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "localcode.toml"
    path.write_text("# mine\n[edge]\nport = 1")
    append_table(path, MODEL)
    assert path.read_text() == "# mine\n[edge]\nport = 1\n\n" + toml_table(MODEL)


def test_a_name_that_is_taken_is_refused_and_nothing_written(tmp_path: Path) -> None:
    path = tmp_path / "localcode.toml"
    append_table(path, MODEL)
    before = path.read_text()
    with pytest.raises(CommandError, match="has a model 'mine' already"):
        append_table(path, MODEL)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (98_362_432, "98 MB"), (1_117_320_768, "1.1 GB")]
)
def test_sizes_are_in_decimal_units(count: int, text: str) -> None:
    assert human_bytes(count) == text
