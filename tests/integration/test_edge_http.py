import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from localcode.cache.v1 import cache_pb2
from localcode.inference.v1 import inference_pb2 as pb
from localcode.router.v1 import router_pb2
from services.shared.errors import (
    BackendFailed,
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    NoWorker,
    Overloaded,
)
from tests.fakes.edge import serving_edge
from tests.fakes.inference import (
    FakeInferenceService,
    FakeRouterService,
    admitted,
    content,
    finish,
    progress,
    serving,
    spoken,
    tool_call,
)

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "hi"}
PARAMETERS = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "filePath": {"type": "string"},
        "offset": {"type": "integer", "minimum": -9007199254740991, "exclusiveMinimum": 0},
    },
    "required": ["filePath"],
}
AGENT_BODY: dict[str, Any] = {
    "model": "coder",
    "max_tokens": 8192,
    "messages": [
        {"role": "system", "content": "You are a coding agent."},
        {"role": "user", "content": [{"type": "text", "text": '"read a.py"'}, {"type": "text", "text": "<note/>"}]},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "I should read it.",
            "tool_calls": [
                {
                    "id": "call_0",
                    "type": "function",
                    "function": {"name": "read", "arguments": '{"filePath":"a.py"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": "1: import b"},
    ],
    "tools": [{"type": "function", "function": {"name": "read", "description": "Reads.", "parameters": PARAMETERS}}],
    "tool_choice": "auto",
    "stream": True,
    "stream_options": {"include_usage": True},
}


@pytest.fixture
async def fake() -> FakeInferenceService:
    return FakeInferenceService()


@pytest.fixture
async def client(fake: FakeInferenceService) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(fake) as address,
        serving_edge(address, first_headers_seconds=0.3, keep_alive_seconds=0.1) as url,
        httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as client,
    ):
        yield client


async def ask(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post(CHAT, json={"messages": [USER], **fields})


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["x-request-id"]
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: {")]


async def eventually(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # the condition is about another task's state
            await asyncio.sleep(0.01)


async def test_an_agents_request_is_streamed_by_the_book(fake: FakeInferenceService, client: httpx.AsyncClient) -> None:
    fake.script = lambda _: [
        admitted(prompt_token_count=7210),
        content("Reading."),
        tool_call(0, id="call_a", name="read"),
        tool_call(0, '{"filePath":"b.py"}'),
        finish(pb.FINISH_REASON_TOOL_CALLS, prompt_token_count=7210, cached_token_count=7000),
    ]
    response = await client.post(CHAT, json=AGENT_BODY, headers={"x-session-id": "ses_1"})
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = chunks_of(response)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]][-1] == "tool_calls"
    assert chunks[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 7000}
    assert response.text.endswith("data: [DONE]\n\n")
    [request] = fake.requests
    assert request.context.session_id == "ses_1"
    assert request.chat.tools[0].parameters_json == json.dumps(PARAMETERS, separators=(",", ":"))
    assert [part.text for part in request.chat.messages[1].content] == ['"read a.py"', "<note/>"]
    assert request.chat.messages[2].reasoning_content == "I should read it."


async def test_an_answer_in_one_piece(client: httpx.AsyncClient) -> None:
    response = await ask(client)
    assert response.status_code == 200
    assert response.headers["x-request-id"].startswith("req_")
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "Hello world"
    assert body["usage"]["total_tokens"] == 13


async def test_usage_is_left_out_unless_asked_for(client: httpx.AsyncClient) -> None:
    response = await ask(client, stream=True)
    assert all(chunk["choices"] for chunk in chunks_of(response))


async def test_without_a_model_the_choice_is_left_to_the_router(
    fake: FakeInferenceService, client: httpx.AsyncClient
) -> None:
    await ask(client)
    assert fake.requests[0].model == ""


async def test_several_choices_are_several_generations(fake: FakeInferenceService, client: httpx.AsyncClient) -> None:
    fake.script = lambda request: spoken(f"seed {request.sampling.seed}")
    body = (await ask(client, n=3, seed=5)).json()
    assert [(choice["index"], choice["message"]["content"]) for choice in body["choices"]] == [
        (0, "seed 5"),
        (1, "seed 6"),
        (2, "seed 7"),
    ]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (10, 9)


BAD_INPUT: dict[str, tuple[bytes, int, str]] = {
    "invalid JSON": (b'{"messages": [', 400, "body"),
    "no object": (b"[]", 400, "body"),
    "empty messages": (b'{"messages": []}', 400, "messages"),
    "wrong role": (b'{"messages": [{"role": "wizard", "content": "x"}]}', 400, "messages[0].role"),
    "tool result without call": (
        b'{"messages": [{"role": "tool", "tool_call_id": "c9", "content": "x"}]}',
        400,
        "messages[0].tool_call_id",
    ),
    "negative max_tokens": (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": -5}', 400, "max_tokens"),
    "wrong parameter type": (b'{"messages": [{"role": "user", "content": "x"}], "top_p": {}}', 400, "top_p"),
    "10 MB body": (b'{"messages": "' + b"x" * 10_000_000 + b'"}', 413, "body"),
}


@pytest.mark.parametrize(("body", "status", "param"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
async def test_bad_input_is_refused_by_name(
    fake: FakeInferenceService, client: httpx.AsyncClient, body: bytes, status: int, param: str
) -> None:
    response = await client.post(CHAT, content=body)
    assert response.status_code == status
    assert error_of(response)["param"] == param
    assert not fake.requests


async def test_a_large_body_of_unknown_length_is_refused_too(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * 1_000_000

    response = await client.post(CHAT, content=pieces())
    assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")


REFUSALS: dict[str, tuple[Exception, int, str, str | None]] = {
    "unknown model": (ModelNotFound("no model 'x'", param="model"), 404, "model_not_found", "model"),
    "prompt too long": (ContextLengthExceeded.of(40_000, 32_768), 400, "context_length_exceeded", "messages"),
    "image for a text model": (
        InvalidRequest("sees no images", param="messages[0].content[0]"),
        400,
        "invalid_request",
        "messages[0].content[0]",
    ),
    "full queue": (Overloaded("busy", retry_after_seconds=3), 429, "rate_limit_exceeded", None),
    "no worker": (NoWorker("none", retry_after_seconds=3), 503, "no_worker", None),
    "broken": (BackendFailed("broken"), 500, "server_error", None),
    "defect": (ValueError("secret"), 500, "server_error", None),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "status", "code", "param"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_refusal_keeps_its_status(
    fake: FakeInferenceService,
    client: httpx.AsyncClient,
    stream: bool,
    error: Exception,
    status: int,
    code: str,
    param: str | None,
) -> None:
    fake.script = lambda _: [error]
    response = await ask(client, stream=stream)
    assert response.status_code == status
    assert (error_of(response)["code"], error_of(response)["param"]) == (code, param)
    assert "secret" not in response.text
    assert ("retry-after" in response.headers) == (status in (429, 503))
    if status in (429, 503):
        assert 3000 <= int(response.headers["retry-after-ms"]) <= 4500


async def test_a_dead_router_is_a_503_to_be_retried(fake: FakeInferenceService) -> None:
    async with serving(fake) as address:
        pass
    async with (
        serving_edge(address) as url,
        httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as client,
    ):
        response = await ask(client)
        assert response.status_code == 503
        assert "retry-after" in response.headers
        assert address not in response.text
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "unavailable")


async def test_a_failure_in_the_middle_is_an_error_chunk_and_no_end_mark(
    fake: FakeInferenceService, client: httpx.AsyncClient
) -> None:
    fake.script = lambda _: [admitted(), content("a"), 0.05, NoWorker("the worker has died")]
    response = await ask(client, stream=True)
    assert response.status_code == 200
    assert chunks_of(response)[-1] == {
        "error": {"message": "the worker has died", "type": "server_error", "param": None, "code": "no_worker"}
    }
    assert "[DONE]" not in response.text
    assert '"finish_reason":"' not in response.text


async def test_a_failure_in_the_middle_of_an_unstreamed_answer_is_its_status(
    fake: FakeInferenceService, client: httpx.AsyncClient
) -> None:
    fake.script = lambda _: [admitted(), content("a"), NoWorker("the worker has died")]
    assert (await ask(client)).status_code == 503


async def test_a_worker_that_ends_without_a_reason_is_an_error(
    fake: FakeInferenceService, client: httpx.AsyncClient
) -> None:
    fake.script = lambda _: [admitted(), content("a")]
    assert (await ask(client)).status_code == 500
    assert "[DONE]" not in (await ask(client, stream=True)).text


async def test_a_slow_start_gets_headers_and_comments(fake: FakeInferenceService, client: httpx.AsyncClient) -> None:
    fake.script = lambda _: [progress(pb.PHASE_LOADING), 0.7, *spoken("a")]
    response = await ask(client, stream=True)
    assert response.text.startswith(": loading the model\n\n")
    assert response.text.count(": loading the model\n\n") >= 3
    assert response.text.endswith("data: [DONE]\n\n")


async def test_a_late_overflow_lets_the_agent_compact(fake: FakeInferenceService, client: httpx.AsyncClient) -> None:
    fake.script = lambda _: [0.5, ContextLengthExceeded.of(40_000, 32_768)]
    response = await ask(client, stream=True)
    assert response.status_code == 200
    inner = json.loads(chunks_of(response)[-1]["error"]["message"])
    assert inner["error"]["code"] == "context_length_exceeded"


async def test_a_streaming_client_that_leaves_cancels_the_generation(
    fake: FakeInferenceService, client: httpx.AsyncClient
) -> None:
    fake.script = lambda _: [admitted(), content("a"), 60.0]
    async with client.stream("POST", CHAT, json={"messages": [USER], "stream": True}) as response:
        await anext(response.aiter_bytes())
        assert fake.running_count == 1
    await eventually(lambda: fake.running_count == 0)
    assert len(fake.cancelled_ids) == 1


@pytest.mark.parametrize("steps", [[60.0], [admitted(), content("a"), 60.0]], ids=["waiting", "answering"])
@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"stream": True}], ids=["whole", "two choices", "stream"])
async def test_a_client_that_gives_up_cancels_every_generation(
    fake: FakeInferenceService, client: httpx.AsyncClient, steps: list[Any], fields: dict[str, Any]
) -> None:
    fake.script = lambda _: steps
    asking = asyncio.create_task(ask(client, **fields))
    await eventually(lambda: fake.running_count == fields.get("n", 1))
    asking.cancel()
    await eventually(lambda: fake.running_count == 0)
    assert len(fake.cancelled_ids) == fields.get("n", 1)


async def test_a_finished_answer_is_not_cancelled(fake: FakeInferenceService, client: httpx.AsyncClient) -> None:
    for stream in (False, True):
        await ask(client, stream=stream)
    await eventually(lambda: fake.running_count == 0)
    assert fake.cancelled_ids == []


async def test_a_connection_goes_on_after_a_refusal(client: httpx.AsyncClient) -> None:
    assert (await client.post(CHAT, content=b" " * 10_000_000)).status_code == 413
    assert (await ask(client)).status_code == 200


async def test_models_are_listed_with_their_context_and_aliases(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [(entry["id"], entry["context_length"]) for entry in listed["data"]] == [
        ("coder", 32768),
        ("default", 32768),
        ("small", 16384),
    ]
    assert (await client.get("/v1/models/default")).json()["root"] == "coder"
    missing = await client.get("/v1/models/nope/q4")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/nope", 404), ("GET", CHAT, 405)])
async def test_wrong_addresses_answer_in_the_openai_form(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert error_of(response)["type"] == "invalid_request_error"


async def test_health_of_a_lone_worker(client: httpx.AsyncClient) -> None:
    body = (await client.get("/health")).json()
    assert (body["status"], body["provider"], body["model"]) == ("ok", "LocalCode", "coder")
    assert set(body["services"]) == {"edge", "router", "cache", "workers"}


async def test_health_of_a_whole_system(fake: FakeInferenceService) -> None:
    described = cache_pb2.Worker(worker_id="w1", models=[cache_pb2.WorkerModel(name="coder")])
    worker = router_pb2.WorkerStatus(worker=described, healthy=True)
    router = FakeRouterService(router_pb2.GetStatusResponse(default_model="coder", workers=[worker]))
    async with (
        serving(fake, router) as address,
        serving_edge(address) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        response = await client.get("/health")
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        assert response.json()["services"]["cache"] == {"status": "unreachable"}
        router.status.cache_reachable = True
        assert (await client.get("/health")).json()["status"] == "ok"
        del router.status.workers[:]
        assert (await client.get("/health")).status_code == 503


async def test_metrics_count_requests_and_tokens(client: httpx.AsyncClient) -> None:
    await ask(client)
    await client.post(CHAT, content=b"{")
    text = (await client.get("/metrics")).text
    assert f'localcode_edge_requests_total{{route="{CHAT}",status="200"}} 1.0' in text
    assert f'localcode_edge_requests_total{{route="{CHAT}",status="400"}} 1.0' in text
    assert 'localcode_edge_tokens_total{kind="cached",model="coder"} 8.0' in text
    assert 'localcode_edge_time_to_first_token_seconds_count{model="coder"} 1.0' in text


async def test_the_root_says_what_this_is(client: httpx.AsyncClient) -> None:
    assert (await client.get("/")).json()["name"] == "LocalCode"


async def test_keys_are_asked_for_once_they_exist(fake: FakeInferenceService) -> None:
    async with (
        serving(fake) as address,
        serving_edge(address, api_keys=["sk-right"]) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        for path in ("/v1/models", CHAT):
            method = "GET" if path == "/v1/models" else "POST"
            refused = await client.request(method, path, headers={"authorization": "Bearer sk-wrong"})
            assert (refused.status_code, error_of(refused)["code"]) == (401, "invalid_api_key")
        right = {"authorization": "Bearer sk-right"}
        assert (await client.get("/v1/models", headers=right)).status_code == 200
        assert (await client.get("/health")).status_code == 200


async def test_scripts_of_web_pages_are_kept_out_unless_invited(
    fake: FakeInferenceService, client: httpx.AsyncClient
) -> None:
    origin = {"origin": "https://app.example"}
    assert "access-control-allow-origin" not in (await client.get("/v1/models", headers=origin)).headers
    async with (
        serving(fake) as address,
        serving_edge(address, cors_origins=["https://app.example"]) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as invited,
    ):
        response = await invited.get("/v1/models", headers=origin)
        assert response.headers["access-control-allow-origin"] == "https://app.example"


async def test_a_client_that_leaves_while_sending_is_no_defect(client: httpx.AsyncClient) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    await asyncio.sleep(0.05)
    assert f'localcode_edge_requests_total{{route="{CHAT}",status="499"}} 1.0' in (await client.get("/metrics")).text
