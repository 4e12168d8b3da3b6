import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.errors import CommandError
from cli.paths import make_runtime_directory
from cli.purge import purge, purge_targets, tree_bytes
from cli.running import RunningServer, announce, announced, find_running


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALCODE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("LOCALCODE_MODELS_DIR", str(tmp_path / "models"))
    for name in ("state/valkey", "state/logs", "models"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(b"12345")
    return tmp_path


def test_a_server_is_found_while_it_runs_and_not_after() -> None:
    assert find_running() is None
    with announced("http://x"):
        assert find_running() == RunningServer(os.getpid(), "http://x")
    assert find_running() is None


def test_a_running_server_says_where_its_cache_is() -> None:
    with announced("http://x"):
        announce(RunningServer(os.getpid(), "http://x", "unix:/run/cache.sock"))
        assert find_running() == RunningServer(os.getpid(), "http://x", "unix:/run/cache.sock")
    assert find_running() is None


def test_a_second_server_is_told_where_the_first_is() -> None:
    first, second = announced("http://x"), announced("http://y")
    with first, pytest.raises(CommandError, match=rf"runs at http://x \(process {os.getpid()}\)"):
        second.__enter__()


def test_a_server_that_was_killed_is_not_found() -> None:
    code = "import os\nfrom cli.running import announced\nwith announced('http://x'):\n    os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert find_running() is None


def test_purge_takes_state_and_leaves_models(directories: Path) -> None:
    purge(purge_targets(with_models=False))
    assert not (directories / "state" / "valkey").exists()
    assert not (directories / "state" / "logs").exists()
    assert (directories / "models" / "file").exists()


def test_purge_takes_models_when_asked(directories: Path) -> None:
    purge(purge_targets(with_models=True))
    assert not (directories / "models").exists()
    assert purge_targets(with_models=True) == []


def test_purge_refuses_while_a_server_runs(directories: Path) -> None:
    with announced("http://x"), pytest.raises(CommandError, match="Stop it first"):
        purge(purge_targets(with_models=True))
    assert (directories / "state" / "valkey" / "file").exists()


def test_the_size_of_a_tree_counts_its_files(directories: Path) -> None:
    assert tree_bytes(directories) == 15


def test_the_runtime_directory_is_private_and_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 20)))
    directory = make_runtime_directory()
    try:
        assert directory.parent == Path("/tmp")
        assert directory.stat().st_mode & 0o777 == 0o700
    finally:
        directory.rmdir()
