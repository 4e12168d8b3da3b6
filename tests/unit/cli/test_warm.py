import json
from pathlib import Path

import pytest

from cli.errors import CommandError
from cli.server import ServedModel, ServerState
from cli.warm import Warmed, read_usage, warm

STATE = ServerState("http://127.0.0.1:1", {"model": "coder"}, (ServedModel("coder", (), 32768, "qwen", 1),))


def run(directory: Path) -> Warmed:
    return warm(STATE, directory, "key", tick=lambda: None, timeout_seconds=20)


def test_tokens_are_read_from_the_first_finished_step() -> None:
    step = {"type": "step_finish", "part": {"tokens": {"input": 7000, "output": 1, "cache": {"read": 210, "write": 0}}}}
    output = "\n".join(["noise", json.dumps({"type": "step_start"}), json.dumps(step)])
    assert read_usage(output, 1.5) == Warmed(1.5, 7210, 210)


def test_an_error_of_the_client_is_passed_on() -> None:
    event = {"type": "error", "error": {"name": "APIError", "data": {"message": "no worker"}}}
    with pytest.raises(CommandError, match="OpenCode reports: no worker"):
        read_usage(json.dumps(event), 1)


def test_no_answer_at_all_is_an_error() -> None:
    with pytest.raises(CommandError, match="without an answer"):
        read_usage("", 1)


def test_without_opencode_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="npm install -g opencode-ai"):
        run(tmp_path)


def test_opencode_is_run_in_the_directory_with_one_token_of_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "opencode"
    program.write_text(
        "#!/bin/sh\n"
        f'env > {tmp_path}/environment; pwd > {tmp_path}/directory; echo "$@" > {tmp_path}/arguments\n'
        'echo \'{"type":"step_finish","part":{"tokens":{"input":5,"cache":{"read":2}}}}\'\n'
    )
    program.chmod(0o755)
    (project := tmp_path / "project").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert run(project).prompt_tokens == 7
    assert (tmp_path / "directory").read_text().strip() == str(project)
    assert "--model localcode/coder" in (tmp_path / "arguments").read_text()
    environment = dict(
        line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines() if "=" in line
    )
    document = json.loads(environment["OPENCODE_CONFIG_CONTENT"])
    assert document["provider"]["localcode"]["models"]["coder"]["limit"] == {"context": 32768, "output": 1}
    assert document["provider"]["localcode"]["options"]["apiKey"] == "key"
    assert not Path(environment["XDG_DATA_HOME"]).exists()
