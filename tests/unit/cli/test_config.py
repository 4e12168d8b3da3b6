from pathlib import Path

import pytest

from cli import config
from cli.config import ModelEntry, choose_models, client_host, editable_path, load_configuration
from cli.errors import CommandError
from services.shared.settings import ConfigurationError

MODELS = (
    ModelEntry("coder", "llama", {"aliases": ["main"], "context": 32768, "source": "qwen2.5-coder-1.5b"}),
    ModelEntry("small", "llama", {"source": "qwen2.5-coder-0.5b"}),
    ModelEntry("glm-4.7", "upstream", {"context_length": 131072}),
)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "localcode.toml"
    path.write_text(text)
    return path


def names(models: list[ModelEntry]) -> list[str]:
    return [model.name for model in models]


def test_the_shipped_file_configures_two_local_models_and_one_upstream() -> None:
    configuration = load_configuration(Path(__file__).parents[3] / "localcode.toml")
    assert [(model.name, model.kind, model.context) for model in configuration.models] == [
        ("coder", "llama", 32768),
        ("small", "llama", 16384),
        ("glm-4.7", "upstream", None),
    ]
    assert configuration.default_model == "coder"


def test_a_file_that_is_named_but_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="which is not a file"):
        load_configuration(tmp_path / "none.toml")


def test_broken_toml_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"localcode.toml is not valid TOML"):
        load_configuration(write(tmp_path, "[edge\n"))


def test_an_unknown_kind_is_an_error_that_names_the_model(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"kind in \[models.x\] is 'lama'; it must be one of llama, upstream"):
        load_configuration(write(tmp_path, '[models.x]\nkind = "lama"\n'))


def test_a_model_that_is_no_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="each model must be a table"):
        load_configuration(write(tmp_path, "[models]\nx = 1\n"))


def test_a_draft_model_is_named_like_a_configured_model_or_a_source(tmp_path: Path) -> None:
    text = (
        '[models.coder]\nsource = "a"\ndraft = "small"\n[models.small]\nsource = "b"\n'
        '[models.other]\nsource = "c"\ndraft = "hf:o/r/d.gguf"\n'
    )
    coder, small, other = load_configuration(write(tmp_path, text)).models
    assert (coder.sources, small.sources, other.sources) == (("a", "b"), ("b",), ("c", "hf:o/r/d.gguf"))


def test_a_variable_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = load_configuration(write(tmp_path, '[router]\nlisten = "127.0.0.1:1"\n'))
    assert configuration.value("router", "listen") == "127.0.0.1:1"
    monkeypatch.setenv("LOCALCODE_ROUTER_LISTEN", "127.0.0.1:2")
    assert configuration.value("router", "listen") == "127.0.0.1:2"


def test_all_models_run_by_default() -> None:
    assert names(choose_models(MODELS)) == ["coder", "small", "glm-4.7"]


def test_no_small_leaves_the_small_model_out() -> None:
    assert names(choose_models(MODELS, no_small=True)) == ["coder", "glm-4.7"]


def test_naming_a_model_keeps_the_upstream_ones() -> None:
    assert names(choose_models(MODELS, only=["small"])) == ["small", "glm-4.7"]


def test_naming_an_unknown_model_lists_those_there_are() -> None:
    with pytest.raises(CommandError, match=r"No model 'x' in localcode.toml; there are: coder, glm-4.7, small"):
        choose_models(MODELS, only=["x"])


def test_an_upstream_names_its_context_differently() -> None:
    assert MODELS[2].context == 131072


@pytest.mark.parametrize(
    ("host", "expected"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("127.0.0.1", "127.0.0.1"), ("example.org", "example.org")],
)
def test_clients_connect_to_a_real_address(host: str, expected: str) -> None:
    assert client_host(host) == expected


def test_the_file_of_an_installed_package_is_copied_before_it_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = write(tmp_path, "[edge]\nport = 1\n")
    monkeypatch.setattr(config, "_PACKAGED", packaged)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = editable_path(load_configuration(packaged))
    assert own != packaged
    assert own.read_text() == packaged.read_text()


def test_any_other_file_is_changed_where_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    assert editable_path(load_configuration(path)) == path
