import json
from typing import Any

import grpc
import orjson
import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from edge.errors import ApiError, InvalidApiKey, RequestTooLarge, api_error, error_chunk, error_response
from services.shared.errors import (
    BackendFailed,
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    NoWorker,
    Overloaded,
    ServiceError,
    Unsupported,
)
from tests.fakes.rpc import rpc_error


def bare_rpc_error(code: StatusCode, details: str) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(), details)


def body(error: Exception) -> dict[str, Any]:
    return api_error(error).body()["error"]


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (InvalidRequest("m"), 400, "invalid_request_error", "invalid_request"),
        (ContextLengthExceeded.of(9, 5), 400, "invalid_request_error", "context_length_exceeded"),
        (Unsupported("m"), 400, "invalid_request_error", "unsupported"),
        (InvalidApiKey("m"), 401, "invalid_request_error", "invalid_api_key"),
        (ModelNotFound("m"), 404, "invalid_request_error", "model_not_found"),
        (RequestTooLarge("m"), 413, "invalid_request_error", "request_too_large"),
        (Overloaded("m"), 429, "rate_limit_error", "rate_limit_exceeded"),
        (NoWorker("m"), 503, "service_unavailable_error", "no_worker"),
        (BackendFailed("m"), 500, "server_error", "server_error"),
    ],
)
def test_an_error_looks_the_same_from_here_and_from_the_wire(
    error: ServiceError, status: int, kind: str, code: str
) -> None:
    assert api_error(error) == api_error(rpc_error(error))
    assert api_error(error).status == status
    assert (body(error)["type"], body(error)["code"]) == (kind, code)


def test_the_field_is_named() -> None:
    assert body(rpc_error(InvalidRequest("m", param="messages[2].role")))["param"] == "messages[2].role"


def test_an_overflow_says_the_words_that_clients_compact_on() -> None:
    assert (
        "maximum context length is 32768 tokens" in body(rpc_error(ContextLengthExceeded.of(40000, 32768)))["message"]
    )


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (StatusCode.UNAVAILABLE, 503),
        (StatusCode.INTERNAL, 500),
        (StatusCode.UNKNOWN, 500),
        (StatusCode.DEADLINE_EXCEEDED, 504),
        (StatusCode.RESOURCE_EXHAUSTED, 429),
    ],
)
def test_details_of_a_foreign_error_stay_inside(code: StatusCode, status: int) -> None:
    seen = api_error(bare_rpc_error(code, "secret 10.0.0.1"))
    assert seen.status == status
    assert "secret" not in seen.message


def test_a_defect_tells_nothing() -> None:
    assert "secret" not in json.dumps(api_error(ValueError("secret")).body())


@pytest.mark.parametrize("error", [Overloaded("m", retry_after_seconds=4.0), NoWorker("m", retry_after_seconds=4.0)])
def test_retry_after_is_jittered_upwards_only(error: ServiceError) -> None:
    delays = {int(error_response(api_error(rpc_error(error))).headers["retry-after-ms"]) for _ in range(50)}
    assert 4000 <= min(delays) <= max(delays) <= 6000
    assert len(delays) > 5


def test_retry_after_has_a_default_and_is_whole_seconds() -> None:
    assert int(error_response(api_error(NoWorker("m"))).headers["retry-after"]) in (2, 3)


def test_a_fatal_error_asks_for_no_retry() -> None:
    assert "retry-after" not in error_response(api_error(InvalidRequest("m"))).headers


def test_an_overflow_behind_the_headers_has_its_code_inside_the_message() -> None:
    error = error_chunk(api_error(ContextLengthExceeded.of(9, 5)))["error"]
    assert set(error) == {"message"}
    inner = orjson.loads(error["message"])
    assert (inner["type"], inner["error"]["code"]) == ("error", "context_length_exceeded")
    assert "maximum context length is 5 tokens" in inner["error"]["message"]


@pytest.mark.parametrize("error", [NoWorker("m"), Overloaded("m"), BackendFailed("m"), ValueError("x")])
def test_what_may_pass_is_retried_behind_the_headers(error: Exception) -> None:
    assert error_chunk(api_error(error))["error"]["type"] == "server_error"


@pytest.mark.parametrize("error", [ModelNotFound("m"), InvalidRequest("m")])
def test_what_will_not_pass_is_fatal_behind_the_headers(error: ServiceError) -> None:
    assert "server_error" not in json.dumps(error_chunk(api_error(error)))


def test_every_body_is_of_the_openai_form() -> None:
    assert ApiError(404, "m", "k").body() == {"error": {"message": "m", "type": "k", "param": None, "code": None}}


def test_every_status_of_grpc_has_an_answer() -> None:
    for code in grpc.StatusCode:
        assert 400 <= api_error(bare_rpc_error(code, "x")).status <= 599
