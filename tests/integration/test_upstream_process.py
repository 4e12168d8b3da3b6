"""`python -m services.upstream` against a second HTTP server process, seen through gRPC and its registration."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from localcode.cache.v1 import cache_pb2
from localcode.cache.v1.cache_pb2_grpc import CacheServiceStub
from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceStub
from services.shared.errors import error_info, retry_after_seconds
from services.shared.grpc_runtime import is_serving, open_channel

pytestmark = pytest.mark.integration

KEY = "sk-very-secret"
USAGE = pb.Usage(prompt_token_count=12, completion_token_count=3, cached_token_count=8, reasoning_token_count=1)
START_SECONDS = 30.0


@dataclass(frozen=True)
class Upstream:
    """A running upstream process."""

    process: "subprocess.Popen[bytes]"
    log_path: Path
    cache_address: str
    worker: cache_pb2.Worker


def workers(cache_address: str) -> list[cache_pb2.Worker]:
    # The service may still be starting: the default back-off would look again too late on a busy machine.
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]
    with grpc.insecure_channel(cache_address, options=options) as channel:
        request = cache_pb2.ListWorkersRequest()
        answer = CacheServiceStub(channel).ListWorkers(request, timeout=START_SECONDS, wait_for_ready=True)
        return list(answer.workers)


@contextmanager
def child(arguments: list[str], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-m", *arguments], **options) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def upstream(directory: Path, base_url: str, **environment: str) -> Iterator[Upstream]:
    config, log_path = directory / "localcode.toml", directory / "log"
    config.write_text(
        f"""
        [models."glm-4.7"]
        kind = "upstream"
        base_url = "{base_url}"
        model = "remote-glm"
        aliases = ["glm"]
        api_key_variable = "TEST_REMOTE_KEY"
        context_length = 200000
        headers = {{ x-team = "blue" }}
        connect_timeout_seconds = 2
        first_byte_timeout_seconds = 3
        idle_timeout_seconds = 1
        max_concurrent = 8
        """
    )
    cache_address = f"unix:{directory}/cache.sock"
    environment = {
        **os.environ,
        "LOCALCODE_CONFIG": str(config),
        "LOCALCODE_CACHE_LISTEN": cache_address,
        "LOCALCODE_UPSTREAM_NAME": "glm-4.7",
        "LOCALCODE_UPSTREAM_CACHE_ADDRESS": cache_address,
        "LOCALCODE_LOG_LEVEL": "debug",
        "TEST_REMOTE_KEY": KEY,
        **environment,
    }
    with (
        log_path.open("wb") as log,
        child(["services.cache"], env=environment, stderr=subprocess.DEVNULL),
        child(["services.upstream"], env=environment, stderr=log) as process,
    ):
        wait_until(lambda: bool(workers(cache_address)), process)
        yield Upstream(process, log_path, cache_address, workers(cache_address)[0])


def wait_until(holds: Callable[[], bool], process: "subprocess.Popen[bytes] | None" = None) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        assert process is None or process.poll() is None, "the process ended"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def remote() -> Iterator[str]:
    with child(["tests.fakes.openai_http"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"


@pytest.fixture(scope="module")
def running(remote: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    # A proxy that can't be reached: loopback must not go through it.
    with upstream(
        tmp_path_factory.mktemp("upstream"), f"{remote}/v1", HTTP_PROXY="http://127.0.0.1:9", NO_PROXY=""
    ) as started:
        yield started


@pytest.fixture
async def stub(running: Upstream) -> AsyncIterator[InferenceServiceStub]:
    async with open_channel(running.worker.address) as channel:
        yield InferenceServiceStub(channel)


def ask(text: str, **fields: Any) -> pb.GenerateRequest:
    message = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text=text)])
    return pb.GenerateRequest(request_id="r1", model="glm", chat=pb.ChatPrompt(messages=[message]), **fields)


async def answer(stub: InferenceServiceStub, text: str, **fields: Any) -> list[pb.GenerateResponse]:
    return [event async for event in stub.Generate(ask(text, **fields), timeout=20)]


async def collect(call: AsyncIterable[pb.GenerateResponse], events: list[pb.GenerateResponse]) -> None:
    async for event in call:
        events.append(event)  # noqa: PERF401  a comprehension would lose what came before an error


async def failure(stub: InferenceServiceStub, text: str) -> tuple[list[pb.GenerateResponse], grpc.aio.AioRpcError]:
    """What arrived before the error, and the error; a clean end fails the test."""
    events: list[pb.GenerateResponse] = []
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await collect(stub.Generate(ask(text), timeout=20), events)
    assert all(event.WhichOneof("event") != "finish" for event in events)
    return events, failed.value


def recorded(remote: str) -> dict[str, Any]:
    document: dict[str, Any] = httpx.get(f"{remote}/recorded", trust_env=False).json()
    return document


def last_request(remote: str, text: str) -> dict[str, Any]:
    requests = recorded(remote)["requests"]
    return [request for request in requests if request["body"]["messages"][-1]["content"] == text][-1]


def order(events: list[pb.GenerateResponse]) -> list[str]:
    return [
        event.delta.WhichOneof("piece") or "" if event.HasField("delta") else str(event.WhichOneof("event"))
        for event in events
    ]


async def test_a_good_answer_streams_in_the_order_of_the_contract(
    stub: InferenceServiceStub, running: Upstream
) -> None:
    events = await answer(stub, "good", max_tokens=100)
    assert order(events) == ["admitted", "reasoning", "content", "content", "finish"]
    assert events[0].admitted == pb.Admitted(model="glm-4.7", worker_id=running.worker.worker_id, max_tokens=100)
    assert "".join(event.delta.content for event in events) == "Hello, wörld"
    assert (events[-1].finish.reason, events[-1].finish.usage) == (pb.FINISH_REASON_STOP, USAGE)


async def test_the_remote_gets_the_key_the_headers_and_its_own_model_name(
    stub: InferenceServiceStub, remote: str
) -> None:
    await answer(stub, "good headers", max_tokens=100)
    request = last_request(remote, "good headers")
    assert request["headers"]["authorization"] == f"Bearer {KEY}"
    assert request["headers"]["x-team"] == "blue"
    assert request["body"]["model"] == "remote-glm"
    assert request["body"]["max_tokens"] == 100
    assert request["body"]["stream_options"] == {"include_usage": True}


async def test_tool_calls_stream_with_ids_and_distinct_indexes(stub: InferenceServiceStub) -> None:
    events = await answer(stub, "tools")
    calls = [event.delta.tool_call for event in events if event.delta.HasField("tool_call")]
    assert [(call.index, call.id, call.name) for call in calls if call.id] == [(0, "a", "read"), (1, "b", "list")]
    arguments = ["".join(call.arguments for call in calls if call.index == index) for index in (0, 1)]
    assert [json.loads(text) for text in arguments] == [{"path": "x"}, {"all": True}]
    assert events[-1].finish.reason == pb.FINISH_REASON_TOOL_CALLS


async def test_a_json_answer_is_converted(stub: InferenceServiceStub) -> None:
    events = await answer(stub, "json")
    assert order(events) == ["admitted", "content", "tool_call", "finish"]
    assert json.loads(events[2].delta.tool_call.arguments) == {"path": "a"}
    assert events[-1].finish.usage == USAGE


async def test_a_remote_that_is_busy_for_a_moment_is_asked_again(stub: InferenceServiceStub) -> None:
    assert (await answer(stub, "crowded"))[-1].finish.reason == pb.FINISH_REASON_STOP


async def test_a_remote_that_fails_twice_is_asked_again(stub: InferenceServiceStub) -> None:
    assert (await answer(stub, "flaky"))[-1].finish.reason == pb.FINISH_REASON_STOP


@pytest.mark.parametrize(
    ("text", "code", "reason", "said"),
    [
        ("busy", grpc.StatusCode.RESOURCE_EXHAUSTED, "rate_limit_exceeded", "Rate limit reached"),
        ("too_long", grpc.StatusCode.INVALID_ARGUMENT, "context_length_exceeded", "exceeds the context window"),
        ("invalid", grpc.StatusCode.INVALID_ARGUMENT, "invalid_request", "top_p is out of range"),
        ("unknown", grpc.StatusCode.NOT_FOUND, "model_not_found", "no such model"),
        ("echo_key", grpc.StatusCode.FAILED_PRECONDITION, "upstream_key_refused", "TEST_REMOTE_KEY"),
        ("down", grpc.StatusCode.UNAVAILABLE, "no_worker", "maintenance"),
        ("page", grpc.StatusCode.INTERNAL, "server_error", "is base_url right"),
        ("hang", grpc.StatusCode.UNAVAILABLE, "no_worker", "did not answer within 3 seconds"),
    ],
)
async def test_a_refusal_comes_before_the_first_event(
    stub: InferenceServiceStub, text: str, code: grpc.StatusCode, reason: str, said: str
) -> None:
    events, error = await failure(stub, text)
    assert events == []
    assert (error.code(), error_info(error).reason) == (code, reason)
    assert said in (error.details() or "")
    assert KEY not in (error.details() or "")


@pytest.mark.parametrize(("text", "seconds"), [("busy", 7), ("down", 60)])
async def test_the_time_to_come_back_reaches_the_caller(stub: InferenceServiceStub, text: str, seconds: float) -> None:
    assert retry_after_seconds(error_info((await failure(stub, text))[1])) == seconds


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("cut", grpc.StatusCode.UNAVAILABLE, "cut its answer"),
        ("stall", grpc.StatusCode.UNAVAILABLE, "fell silent for 1 seconds"),
        ("late_error", grpc.StatusCode.UNAVAILABLE, "engine died"),
        ("malformed", grpc.StatusCode.INTERNAL, "not JSON"),
        ("unfinished", grpc.StatusCode.INTERNAL, "without a finish reason"),
    ],
)
async def test_an_answer_that_breaks_off_is_an_error_never_a_clean_end(
    stub: InferenceServiceStub, text: str, code: grpc.StatusCode, said: str
) -> None:
    events, error = await failure(stub, text)
    assert order(events) == ["admitted", "content"]
    assert error.code() is code
    assert said in (error.details() or "")


async def test_a_connection_lost_after_the_finish_costs_only_the_usage(stub: InferenceServiceStub) -> None:
    events = await answer(stub, "cut_after_finish")
    assert order(events) == ["admitted", "content", "finish"]
    assert events[-1].finish.usage == pb.Usage()


@pytest.mark.parametrize(("text", "pause_seconds"), [("endless", 0.0), ("flood", 0.5)])
async def test_cancelling_closes_the_http_response_at_once_also_of_a_reader_that_fell_behind(
    stub: InferenceServiceStub, remote: str, running: Upstream, text: str, pause_seconds: float
) -> None:
    closed_before = recorded(remote)["closed_stream_count"]
    call = stub.Generate(ask(text), timeout=20)
    async for event in call:
        if event.HasField("delta"):
            break
    await asyncio.sleep(pause_seconds)
    assert recorded(remote)["closed_stream_count"] == closed_before
    call.cancel()
    started = time.monotonic()
    await asyncio.to_thread(wait_until, lambda: recorded(remote)["closed_stream_count"] > closed_before)
    assert time.monotonic() - started < 2.0
    await asyncio.to_thread(wait_until, lambda: workers(running.cache_address)[0].load.running_count == 0)


async def test_requests_one_after_the_other_share_a_connection(stub: InferenceServiceStub, remote: str) -> None:
    ports = set()
    for text in ("good one", "good two", "tools three"):
        await answer(stub, text)
        ports.add(last_request(remote, text)["client_port"])
    assert len(ports) == 1


async def test_many_answers_stream_beside_each_other(stub: InferenceServiceStub) -> None:
    answers = await asyncio.gather(*(answer(stub, f"good {number}") for number in range(20)))
    assert {tuple(order(events)) for events in answers} == {("admitted", "reasoning", "content", "content", "finish")}


async def test_the_model_is_described(stub: InferenceServiceStub) -> None:
    (model,) = (await stub.Describe(pb.DescribeRequest())).models
    assert (model.name, list(model.aliases), model.context_length) == ("glm-4.7", ["glm"], 200_000)
    assert list(model.capabilities) == [pb.CAPABILITY_CHAT, pb.CAPABILITY_TOOLS]
    assert (model.owner, model.slot_count) == ("127.0.0.1", 8)


async def test_what_only_the_remote_could_do_is_refused(stub: InferenceServiceStub) -> None:
    calls = (
        stub.Tokenize(pb.TokenizeRequest(text="a")),
        stub.Detokenize(pb.DetokenizeRequest(token_ids=[1])),
        stub.RenderPrompt(pb.RenderPromptRequest()),
    )
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_it_is_registered_and_healthy(running: Upstream) -> None:
    (model,) = running.worker.models
    assert (model.name, list(model.aliases), model.context_length, model.slot_count) == ("glm-4.7", ["glm"], 200_000, 8)
    async with open_channel(running.worker.address) as channel:
        assert await is_serving(channel)


async def test_neither_key_nor_content_is_logged(stub: InferenceServiceStub, running: Upstream) -> None:
    await answer(stub, "good secretword")
    await failure(stub, "echo_key")
    log = running.log_path.read_text()
    assert '"generated"' in log
    assert "upstream_key_refused" in log
    assert KEY not in log
    assert "secretword" not in log


async def test_a_remote_that_is_not_there_is_unavailable_after_retries(tmp_path: Path) -> None:
    with upstream(tmp_path, "http://127.0.0.1:9/v1") as started, started.log_path.open("rb") as log:
        async with open_channel(started.worker.address) as channel:
            _, error = await failure(InferenceServiceStub(channel), "good")
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "Connection refused" in (error.details() or "") or "attempts failed" in (error.details() or "")
        assert log.read().count(b"upstream_retry") == 2


async def test_other_hosts_are_reached_through_the_proxy(remote: str, tmp_path: Path) -> None:
    proxies = {"HTTP_PROXY": remote, "http_proxy": remote, "NO_PROXY": "", "no_proxy": ""}
    with upstream(tmp_path, "http://remote.invalid/v1", **proxies) as started:
        async with open_channel(started.worker.address) as channel:
            events = await answer(InferenceServiceStub(channel), "good proxied")
    assert events[-1].HasField("finish")
    assert last_request(remote, "good proxied")["headers"]["host"] == "remote.invalid"


def test_a_stop_signal_ends_the_process_cleanly_and_deregisters(remote: str, tmp_path: Path) -> None:
    with upstream(tmp_path, f"{remote}/v1") as started:
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(10) == 0
        assert workers(started.cache_address) == []


def test_a_wrong_setting_ends_the_start_with_its_name() -> None:
    environment = {**os.environ, "LOCALCODE_UPSTREAM_NAME": "m", "LOCALCODE_UPSTREAM_MAX_CONCURRENT": "0"}
    command = [sys.executable, "-m", "services.upstream"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    assert ended.returncode == 1
    assert "LOCALCODE_UPSTREAM_MAX_CONCURRENT" in ended.stderr
    assert "Traceback" not in ended.stderr
