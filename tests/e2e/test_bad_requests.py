"""What is wrong with a request is said with the right status and the field's name, through the whole chain."""

from typing import Any

import httpx
import openai
import pytest

from tests.e2e.system import System

pytestmark = pytest.mark.e2e

USER = {"role": "user", "content": "Hi"}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJ"
    "RU5ErkJggg=="
)
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]}
ORPHAN_RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "42"}


def post(system: System, **request: Any) -> httpx.Response:
    body = {"model": "scripted", "messages": [USER]} | request
    return httpx.post(f"{system.url}/v1/chat/completions", json=body, trust_env=False, timeout=60)


@pytest.mark.parametrize(
    ("request_fields", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "role"),
        ({"messages": [USER, ORPHAN_RESULT]}, "tool_call_id"),
        ({"messages": [IMAGE]}, "image"),
        ({"messages": "Hi"}, "messages"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n"),
        ({"stop": 7}, "stop"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": "all"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "poem"}}, "response_format"),
        ({"logit_bias": {"hello": 1}}, "logit_bias"),
        ({"top_logprobs": 50, "logprobs": True}, "top_logprobs"),
        ({"stream": "perhaps"}, "stream"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_field_is_named(chat_system: System, request_fields: dict[str, Any], named: str) -> None:
    answer = post(chat_system, **request_fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert named in f"{error['param']} {error['message']}"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_is_refused_before_any_header(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "word " * 9000}], stream=stream
        )
    assert caught.value.code == "context_length_exceeded"
    assert "maximum context length is 8192 tokens" in caught.value.message


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-none", messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.code == "model_not_found"
    assert "gpt-none" in caught.value.message


def test_a_body_that_is_not_json_is_a_bad_request(chat_system: System) -> None:
    url = f"{chat_system.url}/v1/chat/completions"
    answer = httpx.post(url, content=b"{nonsense", headers={"content-type": "application/json"}, trust_env=False)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]["message"]


def test_a_body_of_ten_megabytes_is_too_large(chat_system: System) -> None:
    answer = post(chat_system, messages=[{"role": "user", "content": "x" * 10_000_000}])
    assert answer.status_code == 413
    assert answer.json()["error"]["code"]


def test_after_all_of_that_the_server_answers(chat_system: System) -> None:
    assert post(chat_system).status_code == 200
    assert chat_system.health()["status"] == "ok"
