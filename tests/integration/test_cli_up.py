"""`localcode up` with real services, a real Valkey, and a remote model that nobody asks anything."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from cli.ports import free_port

pytestmark = pytest.mark.integration
CONFIGURATION = '[models.remote]\nkind = "upstream"\nbase_url = "http://127.0.0.1:1/v1"\n'


class Up:
    """A running `localcode up`."""

    def __init__(self, directory: Path, port: int) -> None:
        (directory / "localcode.toml").write_text(CONFIGURATION)
        self.url = f"http://127.0.0.1:{port}"
        self.runtime, self.state = directory / "run", directory / "state"
        self.runtime.mkdir()
        self.errors = directory / "errors"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from cli.main import app; app()", "up", "--port", str(port)],
                cwd=directory,
                env=os.environ | {"LOCALCODE_STATE_DIR": str(self.state), "XDG_RUNTIME_DIR": str(self.runtime)},
                stderr=errors,
            )

    @property
    def text(self) -> str:
        return self.errors.read_text()

    def children(self) -> dict[str, int]:
        found = {}
        for process in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):  # it may end while it is looked at
                found[" ".join(process.cmdline())] = process.pid
        return found

    def child(self, part: str) -> int | None:
        return next((pid for command, pid in self.children().items() if part in command), None)


def wait_until(condition: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@contextmanager
def running_up(directory: Path) -> Iterator[Up]:
    running = Up(directory, free_port("127.0.0.1"))
    try:
        wait_until(lambda: "LocalCode is ready" in running.text or running.process.poll() is not None)
        assert running.process.poll() is None, running.text
        yield running
    finally:
        running.process.kill()
        running.process.wait()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running_up(tmp_path_factory.mktemp("up")) as running:
        yield running


def test_the_banner_appears_when_everything_serves(up: Up) -> None:
    health = httpx.get(f"{up.url}/health", trust_env=False).json()
    assert (health["status"], health["model"]) == ("ok", "remote")
    assert f"{up.url}/v1" in up.text


def test_valkey_and_every_socket_belong_to_this_user_alone(up: Up) -> None:
    [directory] = up.runtime.iterdir()
    assert directory.stat().st_mode & 0o077 == 0
    valkey = up.child("valkey")
    assert valkey is not None
    assert [c for c in psutil.Process(valkey).net_connections("inet") if c.status == psutil.CONN_LISTEN] == []


def test_the_cache_commands_find_the_store_of_this_user(up: Up) -> None:
    command = [sys.executable, "-c", "from cli.main import app; app()", "cache", "stats", "--json"]
    environment = os.environ | {"LOCALCODE_STATE_DIR": str(up.state)}
    answer = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, cwd=up.state).stdout)
    assert (answer["storage"], answer["backend"]) == (str(up.state / "kv"), "redis")
    assert (up.state / "kv.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("part", ["valkey", "services.router", "services.upstream", "-m edge"])
def test_what_is_killed_is_back_and_serving_goes_on(up: Up, part: str) -> None:
    first = up.child(part)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: up.child(part) not in (None, first))

    def is_whole() -> bool:
        try:
            return bool(httpx.get(f"{up.url}/health", trust_env=False, timeout=5).json()["status"] == "ok")
        except httpx.HTTPError:
            return False

    wait_until(is_whole)
    assert "(killed by SIGKILL); it is started again in 0.5 s" in up.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_and_no_socket_is_left_after_any_end(tmp_path: Path, number: int) -> None:
    with running_up(tmp_path) as up:
        pids = list(up.children().values())
        assert len(pids) == 6  # valkey, cache, router, remote, edge, guard
        up.process.send_signal(number)
        assert up.process.wait(20) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        wait_until(lambda: not any(is_alive(pid) for pid in pids) and list(up.runtime.iterdir()) == [])
