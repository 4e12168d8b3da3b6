import asyncio
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cli import readiness, up
from cli.banner import print_banner
from cli.config import Configuration, ModelEntry
from cli.engine import Engine
from cli.errors import CommandError
from cli.plan import Service
from cli.readiness import Watch, wait_for_edge, wait_for_services
from cli.server import NoServerError, ServedModel, ServerState
from cli.supervisor import ChildEnded, ChildSpec
from cli.up import UpOptions, runnable_models, state_when_ready
from edge.settings import EdgeSettings
from services.shared.grpc_runtime import HealthService, running_server

CODER = ModelEntry("coder", "llama", {"source": "qwen2.5-coder-1.5b"})
REMOTE = ModelEntry("remote", "upstream", {})


def ended(name: str, count: int) -> ChildEnded:
    return ChildEnded(name, 1, 0.5, count)


def test_a_start_that_fails_three_times_is_given_up() -> None:
    watch = Watch()
    watch.ended(ended("router", 2))
    watch.check("router")
    watch.ended(ended("router", 3))
    with pytest.raises(CommandError, match="router ended 3 times while starting"):
        watch.check("router")
    watch.check("cache")


def test_a_model_that_crashes_at_each_start_is_told_to_be_compiled_anew() -> None:
    watch = Watch()
    watch.ended(ChildEnded("model coder", -signal.SIGSEGV, 0.5, 3))
    watch.ended(ended("cache", 3))
    with pytest.raises(CommandError, match="`make clean` and `make run` compile it for this one"):
        watch.check("model coder")
    with pytest.raises(CommandError, match=r"its messages are above\.$"):
        watch.check("cache")


def test_an_end_is_said_with_cause_and_delay(capsys: pytest.CaptureFixture[str]) -> None:
    Watch().ended(ended("model [x]", 1))
    assert "✗ model [x] ended (exit code 1); it is started again in 0.5 s" in capsys.readouterr().err


async def test_a_service_is_ready_when_its_health_service_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"unix:{tmp_path}/x.sock"
    health = HealthService()
    service = Service(ChildSpec("cache", (), {}), address)
    async with running_server(address, lambda server: None, health_service=health, stop_grace_seconds=0):
        await health.set_serving(False)
        waiting = asyncio.create_task(wait_for_services([service], Watch()))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await health.set_serving(True)
        async with asyncio.timeout(5):
            await waiting
    assert "✓ cache is ready" in capsys.readouterr().err


async def test_waiting_ends_when_a_service_keeps_failing(tmp_path: Path) -> None:
    watch = Watch()
    watch.ended(ended("cache", 3))
    service = Service(ChildSpec("cache", (), {}), f"unix:{tmp_path}/none.sock")
    with pytest.raises(CommandError, match="cache ended 3 times"):
        await wait_for_services([service], watch)


@pytest.fixture
def degraded() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            body = b'{"status": "degraded"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_system_that_stays_degraded_is_called_so(degraded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_SETTLE_SECONDS", 0.2)
    assert await wait_for_edge(degraded, Watch()) == "degraded"


async def test_an_edge_that_keeps_failing_is_given_up() -> None:
    watch = Watch()
    watch.ended(ended("edge", 3))
    with pytest.raises(CommandError, match="edge ended 3 times"):
        await wait_for_edge("http://127.0.0.1:1", watch)


def configuration(*models: ModelEntry) -> Configuration:
    return Configuration(None, {}, EdgeSettings(), models)


def test_without_an_engine_only_upstream_models_run_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    broken = Engine(problem="it isn't installed")
    assert runnable_models(configuration(CODER, REMOTE), UpOptions(), broken) == [REMOTE]
    assert "llama-cpp-python doesn't work here (it isn't installed)" in capsys.readouterr().err


def test_without_an_engine_and_without_an_upstream_nothing_can_run() -> None:
    with pytest.raises(CommandError, match="No model to serve"):
        runnable_models(configuration(CODER), UpOptions(), Engine(problem="broken"))


def test_the_banner_says_where_what_and_how_on(capsys: pytest.CaptureFixture[str]) -> None:
    models = (ServedModel("coder", ("main",), 32768, "qwen", 9), ServedModel("glm", (), 131072, "api.example", 0))
    state = ServerState("http://127.0.0.1:4242", {"model": "coder"}, models)
    print_banner(state, "ok", devices=["GPU"], logs=Path("/logs"))
    text = capsys.readouterr().err
    for part in (
        "LocalCode is ready",
        "http://127.0.0.1:4242/v1",
        "GPU",
        "/logs",
        "coder (default)",
        "32,768",
        "api.example",
        "localcode opencode --write",
        "localcode warm",
    ):
        assert part in text


async def test_an_edge_that_ends_before_it_was_asked_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[ServerState | Exception] = [NoServerError("gone"), ServerState("http://x", {}, ())]
    waits: list[str] = []

    async def wait(url: str, watch: Watch) -> str:
        waits.append(url)
        return "ok"

    def ask(url: str, key: str) -> ServerState:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(up, "wait_for_edge", wait)
    monkeypatch.setattr(up, "ask", ask)
    state, status = await state_when_ready("http://x", "key", set(), Watch())
    assert (state.url, status, waits) == ("http://x", "ok", ["http://x", "http://x"])
