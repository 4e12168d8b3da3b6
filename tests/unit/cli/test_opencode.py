import json
from pathlib import Path

import pytest

from cli.config import Configuration, ModelEntry
from cli.errors import CommandError
from cli.opencode import (
    Assignment,
    assignments,
    configuration_file,
    configured_state,
    limit,
    merge_into,
    merged,
)
from cli.server import ServedModel
from edge.settings import EdgeSettings

URL = "http://127.0.0.1:4242"
MODELS = [
    ServedModel("coder", ("main",), 32768, "qwen", 1),
    ServedModel("small", (), 16384, "qwen", 1),
]


def wanted(*, needs_key: bool = False, models: list[ServedModel] = MODELS) -> list[Assignment]:
    return list(assignments(URL, models, "coder", needs_key=needs_key))


def test_a_new_file_holds_all_that_opencode_needs() -> None:
    assert json.loads(merged("{}\n", wanted())) == {
        "$schema": "https://opencode.ai/config.json",
        "model": "localcode/coder",
        "small_model": "localcode/small",
        "provider": {
            "localcode": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "LocalCode",
                "options": {"baseURL": "http://127.0.0.1:4242/v1", "apiKey": "localcode"},
                "models": {
                    "coder": {"name": "coder", "tool_call": True, "limit": {"context": 32768, "output": 8192}},
                    "small": {"name": "small", "tool_call": True, "limit": {"context": 16384, "output": 4096}},
                },
            }
        },
    }


def test_without_a_small_model_titles_come_from_the_main_one() -> None:
    assert json.loads(merged("{}", wanted(models=MODELS[:1])))["small_model"] == "localcode/coder"


def test_a_real_key_is_not_written_into_the_file() -> None:
    document = json.loads(merged("{}", wanted(needs_key=True)))
    assert document["provider"]["localcode"]["options"]["apiKey"] == "{env:LOCALCODE_API_KEY}"


@pytest.mark.parametrize(("context", "output"), [(131072, 8192), (32768, 8192), (8192, 2048), (0, 8192)])
def test_output_is_a_quarter_of_the_context_and_at_most_8192(context: int, output: int) -> None:
    assert limit(context)["output"] == output


MINE = """{
  // my theme
  "theme": "dark",
  "model": "other/big", /* for now */
  "enabled_providers": ["other"],
  "provider": {
    "other": { "options": { "apiKey": "x" } },
    "localcode": {
      "name": "Mine",
      "options": { "baseURL": "http://old/v1", "apiKey": "mine" },
      "models": { "coder": { "name": "My coder", "options": { "top_k": 1 }, "limit": { "context": 1, "output": 1 } } },
    },
  },
}
"""


def test_comments_other_keys_and_own_names_stay() -> None:
    text = merged(MINE, wanted())
    assert "// my theme" in text
    assert "/* for now */" in text
    for kept in ('"theme": "dark"', '"other": { "options": { "apiKey": "x" } }', '"name": "Mine"', '"apiKey": "mine"'):
        assert kept in text
    assert '"name": "My coder", "options": { "top_k": 1 }' in text


def test_address_limits_and_choice_of_models_are_renewed() -> None:
    text = merged(MINE, wanted())
    assert '"baseURL": "http://127.0.0.1:4242/v1"' in text
    assert '"model": "localcode/coder"' in text
    assert '"context": 32768' in text
    assert '"localcode"\n  ]' in text


def test_merging_twice_changes_nothing() -> None:
    once = merged(MINE, wanted())
    assert merged(once, wanted()) == once


def test_the_former_file_is_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "opencode.json"
    path.write_text(MINE)
    backup = merge_into(path, wanted())
    assert backup is not None
    assert backup.read_text() == MINE
    assert path.read_text() == merged(MINE, wanted())
    assert merge_into(path, wanted()) is None


def test_a_new_file_is_created_with_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "opencode" / "opencode.json"
    assert merge_into(path, wanted()) is None
    assert json.loads(path.read_text())["model"] == "localcode/coder"


@pytest.mark.parametrize("text", ["{ broken", "[]", '{"provider": 3}', "null"])
def test_a_file_that_cannot_be_merged_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "opencode.json"
    path.write_text(text)
    with pytest.raises(CommandError, match="it was left as it is"):
        merge_into(path, wanted())
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_linked_file_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.json", tmp_path / "opencode.json"
    real.write_text("{}")
    link.symlink_to(real)
    merge_into(link, wanted())
    assert link.is_symlink()
    assert "localcode" in real.read_text()


def test_the_file_of_the_project_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project := tmp_path / "project").mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert configuration_file() == tmp_path / "config" / "opencode" / "opencode.json"
    (tmp_path / "config" / "opencode").mkdir(parents=True)
    (tmp_path / "config" / "opencode" / "opencode.jsonc").touch()
    assert configuration_file() == tmp_path / "config" / "opencode" / "opencode.jsonc"
    (project / "opencode.jsonc").touch()
    assert configuration_file() == project / "opencode.jsonc"


def test_a_context_that_nobody_set_is_no_larger_than_the_pool_of_cells() -> None:
    values = {"source": "qwen2.5-coder-0.5b", "kv_cells": 16384}
    models = (ModelEntry("small", "llama", values), ModelEntry("own", "llama", {**values, "context": 4096}))
    state = configured_state(Configuration(None, {}, EdgeSettings(), models), URL)
    assert [model.context for model in state.models] == [16384, 4096]
