import socket
from pathlib import Path

import pytest

from cli import checks
from cli.config import Configuration, ModelEntry
from cli.doctor import report
from cli.engine import Engine, read_probe
from cli.running import RunningServer
from edge.settings import EdgeSettings

WORKING = Engine("0.3.36", ("CPU",))
BROKEN = Engine(problem="it isn't installed")


def local(source: str) -> ModelEntry:
    return ModelEntry("mine", "llama", {"source": source})


@pytest.fixture(autouse=True)
def models_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALCODE_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("LOCALCODE_STATE_DIR", str(tmp_path / "state"))


def test_an_old_python_is_an_error() -> None:
    assert checks.check_python((3, 10, 9)).level == "error"
    assert checks.check_python((3, 11, 0)).level == "ok"
    assert checks.check_python((4, 0, 0)).level == "ok"


def test_a_missing_engine_says_what_to_install() -> None:
    check = checks.check_engine(BROKEN)
    assert (check.level, "pip install" in check.remedy) == ("error", True)
    assert checks.check_engine(WORKING).detail == "0.3.36 on CPU"


def test_a_missing_compiler_matters_only_while_the_engine_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apt-get").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checks.check_compiler(WORKING).level == "warning"
    check = checks.check_compiler(BROKEN)
    assert check.level == "error"
    assert check.remedy.endswith("apt-get install -y build-essential")


def test_a_model_of_the_catalogue_that_is_not_here_yet_is_a_warning_with_the_command() -> None:
    [check] = checks.check_model_files([local("smollm2-135m")])
    assert check.level == "warning"
    assert check.remedy.startswith("localcode models pull mine")


def test_a_path_without_a_file_is_an_error(tmp_path: Path) -> None:
    [check] = checks.check_model_files([local(str(tmp_path / "x.gguf"))])
    assert (check.level, check.detail) == ("error", f"there is no {tmp_path / 'x.gguf'}")


def test_a_file_of_the_wrong_size_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"short")
    [check] = checks.check_model_files([local("smollm2-135m")])
    assert check.level == "error"
    assert "has 5 bytes instead of 98,362,432" in check.detail


def test_memory_is_compared_with_what_the_models_need() -> None:
    assert checks.check_memory([local("smollm2-135m")], available_bytes=100_000_000).level == "error"
    assert checks.check_memory([local("smollm2-135m")], available_bytes=200_000_000).level == "ok"


def test_a_busy_port_names_the_holder_and_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check = checks.check_port("127.0.0.1", server.getsockname()[1], None)
    assert check.level == "error"
    assert "is in use by" in check.detail
    assert "localcode up --port" in check.remedy


def test_our_own_server_on_the_port_is_fine() -> None:
    assert checks.check_port("127.0.0.1", 1, RunningServer(1, "http://x")).level == "ok"


def test_a_redis_that_does_not_answer_is_an_error() -> None:
    configuration = Configuration(None, {"cache": {"redis_url": "redis://127.0.0.1:1"}}, EdgeSettings(), ())
    assert checks.check_redis(configuration).level == "error"


def test_a_wrong_redis_url_is_an_error() -> None:
    configuration = Configuration(None, {"cache": {"redis_url": "http://x"}}, EdgeSettings(), ())
    assert checks.check_redis(configuration).level == "error"


def test_missing_programs_of_the_client_are_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [(check.name, check.level) for check in checks.check_client()] == [
        ("opencode", "warning"),
        ("rg", "warning"),
    ]


def test_every_remedy_is_printed_and_an_error_means_no(capsys: pytest.CaptureFixture[str]) -> None:
    results = [checks.Check("A", "ok", "fine"), checks.Check("B", "error", "gone [x]", "install it")]
    assert report(results) is False
    output = capsys.readouterr().out
    assert "✗ B  gone [x]" in output
    assert "→ install it" in output
    assert "1 to put right" in output


def test_warnings_alone_mean_yes() -> None:
    assert report([checks.Check("A", "warning", "hm", "do")]) is True


def test_the_probe_of_the_engine_is_read() -> None:
    assert read_probe(0, 'noise\n{"version": "1", "devices": ["GPU"]}\n', "") == Engine("1", ("GPU",))
    missing = read_probe(1, "", "Traceback\nModuleNotFoundError: No module named 'llama_cpp'\n")
    assert missing.problem == "it isn't installed"
    assert read_probe(1, "", "OSError: libcuda.so.1 is missing\n").problem == "OSError: libcuda.so.1 is missing"
    assert read_probe(-4, "", "").problem == "exit code -4"
