from datetime import UTC, datetime
from typing import Any

import pytest
from grpc import StatusCode
from pydantic import SecretStr

from services.shared.errors import (
    BackendFailed,
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ServiceError,
)
from services.upstream.errors import Remote, UpstreamAway, UpstreamKeyRefused, refusal, retry_after_seconds
from services.upstream.settings import PLACEHOLDER_KEY

REMOTE = Remote("glm-4.7", "api.example", "GLM_KEY", SecretStr("sk-secret"))


def refused(status: int, document: Any = None, **headers: str) -> ServiceError:
    return refusal(REMOTE, status, document, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (422, InvalidRequest),
        (401, UpstreamKeyRefused),
        (403, UpstreamKeyRefused),
        (404, ModelNotFound),
        (413, ContextLengthExceeded),
        (429, Overloaded),
        (408, UpstreamAway),
        (500, UpstreamAway),
        (529, UpstreamAway),
        (204, BackendFailed),
        (302, BackendFailed),
    ],
)
def test_each_status_has_one_meaning(status: int, kind: type[ServiceError]) -> None:
    error = refused(status)
    assert type(error) is kind
    assert "glm-4.7" in error.message


@pytest.mark.parametrize(
    "error",
    [
        {"message": "no", "code": "context_length_exceeded"},
        {"message": "Prompt exceeds max length", "code": "1261"},
        {"message": "no", "code": 1261},
        {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"},
        {"message": "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."},
        {"message": "prompt is too long: 210000 tokens > 200000 maximum"},
        {"message": "Input length 9000 exceeds the maximum context window"},
        {"message": "Please reduce the length of the messages."},
        {"message": "Requested context length 9000 exceeds 8192"},
    ],
)
def test_a_prompt_that_is_too_long_is_recognised(error: dict[str, Any]) -> None:
    named = refused(400, {"error": error})
    assert isinstance(named, ContextLengthExceeded)
    assert "exceeds the context window" in named.message


@pytest.mark.parametrize(
    ("status", "message"),
    [(400, "max_tokens must be positive"), (429, "too many tokens per minute"), (400, "unknown field context")],
)
def test_other_complaints_are_not_taken_for_a_prompt_that_is_too_long(status: int, message: str) -> None:
    assert not isinstance(refused(status, {"error": {"message": message}}), ContextLengthExceeded)


@pytest.mark.parametrize(
    "document",
    [
        {"error": {"message": "bad top_p", "param": "top_p"}},
        {"error": "bad top_p"},
        {"message": "bad top_p"},
        {"detail": "bad top_p"},
        {"detail": [{"msg": "bad top_p"}]},
        {"code": 1210, "msg": "bad top_p"},
        "bad top_p",
    ],
)
def test_the_words_of_the_remote_are_passed_on(document: Any) -> None:
    assert "bad top_p" in refused(400, document).message


def test_the_field_that_the_remote_names_is_passed_on() -> None:
    assert refused(400, {"error": {"message": "bad", "param": "top_p"}}).param == "top_p"


@pytest.mark.parametrize(
    "document", [None, {}, [], {"error": None}, {"error": {"message": None}}, {"error": {"param": 3}}]
)
def test_a_refusal_without_words_is_still_named(document: Any) -> None:
    assert refused(400, document).message.startswith("The upstream glm-4.7 (api.example) refused the request")


def test_a_refused_key_is_ours_and_the_message_names_the_variable() -> None:
    error = refused(401)
    assert error.code is StatusCode.FAILED_PRECONDITION
    assert "GLM_KEY" in error.message


def test_without_a_variable_the_message_names_the_setting() -> None:
    remote = Remote("m", "h", "", SecretStr(PLACEHOLDER_KEY))
    assert "api_key_variable" in refusal(remote, 401, {"error": "a dummy key"}, {}).message


def test_the_key_is_never_repeated() -> None:
    error = refused(401, {"error": {"message": "Incorrect API key provided: sk-secret."}})
    assert "sk-secret" not in error.message
    assert "***" in error.message
    assert "sk-secret" not in repr(REMOTE)


def test_a_long_message_is_cut() -> None:
    assert len(refused(400, {"error": "x\n" * 10_000}).message) < 600


def test_the_time_to_come_back_is_passed_on() -> None:
    assert refused(429, None, retry_after="7").retry_after_seconds == 7
    assert refused(503, None, retry_after="2.5").retry_after_seconds == 2.5


NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "9", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 2026 12:00:30 GMT"}, 30),
        ({"retry-after": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "Thu, 01 Jan 2026 12:00:30 -0000"}, 30),
    ],
)
def test_every_form_of_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, now=NOW) == seconds
