"""The real OpenCode goes on when the worker that writes its tool call is killed: another one writes the rest."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartSystem
from tests.e2e.opencode_client import run_opencode
from tests.e2e.system import System, isolated_environment, llama_model, wait_until
from tests.fakes.scripted_model import write_scripted_model
from tests.fakes.scripts import WRITE_PROMPT, WRITTEN_TEXT, long_write_script

pytestmark = pytest.mark.e2e
CONTENT = "".join(f"row {number} holds square {number * number}\n" for number in range(1, 700))
CONTEXT = 65536


@contextmanager
def second_worker(system: System, model: Path, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the same model, started by hand beside the one of `localcode up`."""
    note = json.loads(next(directory.rglob("server.json")).read_text())
    variables = {
        "LOCALCODE_CONFIG": str(directory / "localcode.toml"),
        "LOCALCODE_WORKER_NAME": "scripted",
        "LOCALCODE_WORKER_MODEL_PATH": str(model),
        "LOCALCODE_WORKER_CACHE_ADDRESS": note["cache_address"],
    }
    with (directory / "second.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "services.worker"], env=isolated_environment(directory) | variables,
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until(lambda: len(healthy_workers(system)) == 2, 60, system.tail)
        yield worker
    finally:
        worker.kill()
        worker.wait()


def healthy_workers(system: System) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = system.health().get("services", {}).get("workers", [])
    return [worker for worker in workers if worker["healthy"]]


def test_a_worker_killed_in_the_middle_of_a_tool_call_is_a_pause_only(
    start_system: StartSystem, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    target = project / "table.txt"
    model = write_scripted_model(tmp_path / "long.gguf", long_write_script(target, CONTENT), context=CONTEXT)
    system = start_system(llama_model("scripted", model, context=CONTEXT, slots=2, speculation='"none"'))
    with second_worker(system, model, tmp_path / "system") as second, ThreadPoolExecutor() as pool:
        running = pool.submit(
            run_opencode, system.url, WRITE_PROMPT, directory=project, home=tmp_path / "home", model="scripted",
            context=CONTEXT,
        )  # fmt: skip
        wait_until(lambda: system.events("tool_call") or running.done(), 120, system.tail)
        [busy] = [worker for worker in healthy_workers(system) if worker["open_requests"]]
        own = system.pid_of("services.worker")
        os.kill(own if busy["address"].startswith("unix:") else second.pid, signal.SIGKILL)
        run = running.result(200)
    assert run.tools == ["write"], run.log
    assert run.text == WRITTEN_TEXT
    assert target.read_text() == CONTENT
    assert [event for event in system.events("attempt_failed") if event["delivered_token_count"] > 0]
