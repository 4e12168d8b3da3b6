import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gguf
import pytest
from typer.testing import CliRunner, Result

from cli.main import app

COMMANDS = [
    ["up"],
    ["warm"],
    ["purge"],
    ["opencode"],
    ["status"],
    ["doctor"],
    ["models", "pull"],
    ["models", "list"],
    ["models", "add"],
    ["cache", "stats"],
    ["cache", "list"],
    ["cache", "pin"],
    ["cache", "prune"],
    ["cache", "verify"],
    ["cache", "rotate-key"],
]
MODELS = {
    "data": [
        {
            "id": "big",
            "root": "big",
            "aliases": ["main"],
            "context_length": 65536,
            "owned_by": "me",
            "meta": {"size": 9},
        },
        {"id": "main", "root": "big"},
    ]
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("LOCALCODE_STATE_DIR", "LOCALCODE_MODELS_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("LOCALCODE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config(home: Path) -> Path:
    path = home / "localcode.toml"
    path.write_text('[edge]\nport = 1\n[models.coder]\nsource = "qwen2.5-coder-1.5b"\n')
    return path


class Server:
    """A server that answers `/health` and `/v1/models`."""

    status = "ok"
    provider = "LocalCode"
    key: str | None = None


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            state.key = self.headers.get("Authorization", state.key)
            worker = {"models": ["big"], "healthy": True, "draining": False, "running": 1, "waiting": 0}
            services = {"edge": {"status": "ok"}, "workers": [worker]}
            health = {"status": state.status, "provider": state.provider, "model": "big", "services": services}
            body = json.dumps(health if self.path == "/health" else MODELS).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


def run(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=answer)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_examples(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Examples" in result.output
    assert f"localcode {' '.join(command)}" in result.output


@pytest.mark.parametrize(
    ("arguments", "message", "exit_code"),
    [
        (["up", "--config", "none.toml"], "--config names none.toml, which is not a file.", 2),
        (["models", "pull", "nothing"], "No model is called 'nothing'", 2),
        (["models", "add", "none.gguf"], "There is no file", 1),
        (
            ["status", "--url", "http://127.0.0.1:1"],
            "No server answers at http://127.0.0.1:1. Start it with: localcode up",
            1,
        ),
        (["warm", "--url", "http://127.0.0.1:1"], "No server answers", 1),
    ],
)
def test_an_error_is_one_line_with_the_remedy(config: Path, arguments: list[str], message: str, exit_code: int) -> None:
    result = run(*arguments)
    assert result.exit_code == exit_code
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_wrong_setting_ends_with_2_and_names_it(config: Path) -> None:
    config.write_text("[edge]\nport = 70000\n")
    result = run("status")
    assert result.exit_code == 2
    assert "port in [edge] (or LOCALCODE_EDGE_PORT)" in result.stderr


def test_a_wrong_setting_of_any_service_is_found_before_anything_starts(config: Path) -> None:
    config.write_text('[models.x]\nkind = "upstream"\ncontext = 5\n')
    result = run("up", "--port", "0")
    assert result.exit_code == 2
    assert "context in [models.x]" in result.stderr


def test_without_any_model_up_says_so(config: Path) -> None:
    config.write_text("[edge]\n")
    result = run("up", "--port", "0")
    assert (result.exit_code, "No model to serve" in result.stderr) == (1, True)


def test_status_shows_services_and_models(config: Path, server: tuple[Server, str]) -> None:
    result = run("status", "--url", server[1])
    assert result.exit_code == 0
    for text in (f"LocalCode at {server[1]} is ok", "worker big", "big (default)", "65,536", "main"):
        assert text in result.stdout


def test_status_as_json_can_be_read_by_programs(config: Path, server: tuple[Server, str]) -> None:
    document = json.loads(run("status", "--json", "--url", server[1]).stdout)
    assert (document["status"], document["models"][0]["name"]) == ("ok", "big")


def test_a_server_that_cannot_answer_ends_status_with_1(config: Path, server: tuple[Server, str]) -> None:
    server[0].status = "unavailable"
    assert run("status", "--url", server[1]).exit_code == 1


def test_another_server_is_not_taken_for_ours(config: Path, server: tuple[Server, str]) -> None:
    server[0].provider = "other"
    result = run("status", "--url", server[1])
    assert (result.exit_code, "is not LocalCode" in result.stderr) == (1, True)


def test_a_configured_key_is_used(config: Path, server: tuple[Server, str]) -> None:
    config.write_text('[edge]\napi_keys = ["secret"]\n')
    run("status", "--url", server[1])
    assert server[0].key == "Bearer secret"


def test_opencode_prints_the_limits_of_the_running_server(config: Path, server: tuple[Server, str]) -> None:
    document = json.loads(run("opencode", "--url", server[1]).stdout)
    assert document["provider"]["localcode"]["options"]["baseURL"] == f"{server[1]}/v1"
    assert document["provider"]["localcode"]["models"]["big"]["limit"] == {"context": 65536, "output": 8192}


def test_opencode_falls_back_to_the_configuration(config: Path) -> None:
    document = json.loads(run("opencode").stdout)
    assert document["model"] == "localcode/coder"
    assert document["provider"]["localcode"]["models"]["coder"]["limit"]["context"] == 32768


def test_opencode_writes_the_users_file(home: Path, config: Path) -> None:
    assert run("opencode", "--write").exit_code == 0
    written = home / "xdg_config_home" / "opencode" / "opencode.json"
    assert json.loads(written.read_text())["model"] == "localcode/coder"


def test_purge_asks_first(home: Path) -> None:
    logs = home / "localcode_state_dir" / "logs"
    logs.mkdir(parents=True)
    assert run("purge", answer="n\n").exit_code == 1
    assert logs.exists()
    assert run("purge", answer="y\n").exit_code == 0
    assert not logs.exists()
    assert "nothing to delete" in run("purge").stderr


def test_a_local_file_is_added_to_the_configuration(home: Path, config: Path) -> None:
    writer = gguf.GGUFWriter(home / "x.gguf", "tiny")
    writer.add_context_length(8192)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    printed = run("models", "add", "x.gguf", "--name", "mine")
    assert printed.stdout == f'[models.mine]\nkind = "llama"\nsource = "{home / "x.gguf"}"\ncontext = 8192\nslots = 2\n'
    assert "models.mine" not in config.read_text()
    assert run("models", "add", "x.gguf", "--name", "mine", "--write").exit_code == 0
    assert config.read_text().endswith(printed.stdout)
    assert "mine" in run("models", "list").stdout


def test_the_list_names_configured_and_known_models(config: Path) -> None:
    output = run("models", "list").stdout
    for text in ("coder", "smollm2-135m", "not pulled"):
        assert text in output
