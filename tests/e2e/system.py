"""The whole system as a person runs it: `localcode up` with all its processes, in directories of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import psutil

RUN_VARIABLE: Final = "LOCALCODE_TEST_RUN"
"""Children inherit it, so whatever a run leaves behind is found, whoever its parent is by then."""
LOCALCODE: Final = str(Path(sys.executable).parent / "localcode")
_START_SECONDS: Final = 90
_STOP_SECONDS: Final = 30


@dataclass(frozen=True)
class System:
    """A running `localcode up`."""

    process: subprocess.Popen[bytes]
    url: str
    run_id: str
    output: Path

    @classmethod
    def start(cls, directory: Path, configuration: str) -> "System":
        """Starts all processes and waits until the server reports that all of them are well."""
        directory.mkdir(parents=True, exist_ok=True)
        config, output = directory / "localcode.toml", directory / "output.log"
        config.write_text(configuration)
        run_id, port = uuid.uuid4().hex, _free_port()
        with output.open("wb") as log:
            process = subprocess.Popen(
                [LOCALCODE, "up", "--config", str(config), "--port", str(port)],
                cwd=directory,
                env=isolated_environment(directory) | {RUN_VARIABLE: run_id},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        system = cls(process, f"http://127.0.0.1:{port}", run_id, output)
        try:
            wait_until(system.is_well, _START_SECONDS, system.tail)
        except BaseException:
            system.kill()
            raise
        return system

    def is_well(self) -> bool:
        """Whether the server says that nothing is missing; an error where it has ended."""
        if self.process.poll() is not None:
            raise AssertionError(f"`localcode up` ended with {self.process.returncode}:\n{self.tail()}")
        return self.health().get("status") == "ok"

    def health(self) -> dict[str, Any]:
        """What `GET /health` says; empty where nobody answers."""
        try:
            answer: dict[str, Any] = httpx.get(f"{self.url}/health", trust_env=False, timeout=5).json()
        except httpx.HTTPError:
            return {}
        return answer

    def client(self) -> openai.OpenAI:
        """OpenAI's SDK, pointed at this server, without retries of its own."""
        http_client = openai.DefaultHttpxClient(trust_env=False)
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="any", max_retries=0, timeout=60, http_client=http_client
        )

    def pid_of(self, module: str) -> int:
        """The process that runs a module, such as `services.worker`."""
        found = [process.pid for process in self.processes() if module in process.cmdline()]
        assert len(found) == 1, (module, found)
        return found[0]

    def processes(self) -> list[psutil.Process]:
        """All processes of this run that live."""
        return [process for process in psutil.process_iter() if _belongs_to(process, self.run_id)]

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Ends the run as Ctrl-C does, and claims that it ends well and leaves nothing behind."""
        try:
            self.process.send_signal(number)
            assert self.process.wait(_STOP_SECONDS) == 0, self.tail()
            wait_until(lambda: not self.processes(), 2, lambda: str(self.processes()))
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends whatever is left of this run at once."""
        for process in self.processes():
            process.kill()
        self.process.wait()

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the processes logged under a name."""
        lines = [line for line in self.output.read_text(errors="replace").splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event.get("event") == name]

    def tail(self) -> str:
        """The last lines that the run printed."""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-60:])


def isolated_environment(home: Path) -> dict[str, str]:
    """An environment whose home directory is empty, and without this machine's settings of LocalCode."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOCALCODE_", "XDG_"))}
    return kept | {"HOME": str(home), "PYTHONUNBUFFERED": "1"}


def llama_model(name: str, path: Path, *, context: int, **settings: object) -> str:
    """The table of one local model in `localcode.toml`."""
    lines = [f"[models.{name}]", 'kind = "llama"', f'source = "{path}"', f"context = {context}"]
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in settings.items()), ""])


def wait_until(holds: Callable[[], object], seconds: float, explain: Callable[[], str]) -> None:
    """Returns once something holds, and fails with an explanation where it takes too long."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.05)


def _belongs_to(process: psutil.Process, run_id: str) -> bool:
    try:
        is_alive = process.status() != psutil.STATUS_ZOMBIE
        return is_alive and process.environ().get(RUN_VARIABLE) == run_id
    except (psutil.Error, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
