import base64
from typing import Any

import pytest

from edge.messages import to_messages
from edge.openai import Message
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest

PNG = base64.b64encode(b"\x89PNG").decode()


def translate(*messages: dict[str, Any]) -> list[pb.Message]:
    return to_messages([Message.model_validate(message) for message in messages])


def refused_param(*messages: dict[str, Any]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        translate(*messages)
    assert caught.value.param in caught.value.message
    return caught.value.param


def call(call_id: str, arguments: Any = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "read", "arguments": arguments}}


def image(url: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": url}]}


@pytest.mark.parametrize(
    ("role", "expected"),
    [("system", pb.ROLE_SYSTEM), ("developer", pb.ROLE_SYSTEM), ("user", pb.ROLE_USER)],
)
def test_roles_are_translated(role: str, expected: pb.Role) -> None:
    assert translate({"role": role, "content": "x"}) == [pb.Message(role=expected, content=[pb.ContentPart(text="x")])]


def test_parts_stay_parts() -> None:
    content = [{"type": "text", "text": "a", "cache_control": {}}, {"type": "text", "text": "b"}]
    [message] = translate({"role": "user", "content": content})
    assert [part.text for part in message.content] == ["a", "b"]


def test_a_call_and_its_result_are_kept_together() -> None:
    messages = translate(
        {"role": "assistant", "content": "", "tool_calls": [call("c1", '{"filePath":"x"}')]},
        {"role": "tool", "tool_call_id": "c1", "content": "text"},
    )
    assert messages[0].tool_calls[0] == pb.ToolCall(id="c1", name="read", arguments_json='{"filePath":"x"}')
    assert not messages[0].content
    assert (messages[1].role, messages[1].tool_call_id) == (pb.ROLE_TOOL, "c1")


@pytest.mark.parametrize(
    ("arguments", "expected"), [({"b": 1, "a": 2}, '{"b":1,"a":2}'), ("", "{}"), (None, "{}"), ("not json", "not json")]
)
def test_arguments_become_text(arguments: Any, expected: str) -> None:
    [message] = translate({"role": "assistant", "content": None, "tool_calls": [call("c1", arguments)]})
    assert message.tool_calls[0].arguments_json == expected


def test_a_call_id_may_return_in_a_later_turn() -> None:
    turn = (
        {"role": "assistant", "tool_calls": [call("call_0")]},
        {"role": "tool", "tool_call_id": "call_0", "content": ""},
    )
    assert len(translate(*turn, *turn)) == 4


def test_a_result_without_a_call_is_refused() -> None:
    messages = (
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [call("c1")]},
        {"role": "tool", "tool_call_id": "c2", "content": "text"},
    )
    assert refused_param(*messages) == "messages[2].tool_call_id"


def test_a_result_before_its_call_is_refused() -> None:
    messages = (
        {"role": "tool", "tool_call_id": "c1", "content": "text"},
        {"role": "assistant", "tool_calls": [call("c1")]},
    )
    assert refused_param(*messages) == "messages[0].tool_call_id"


def test_a_result_must_name_a_call() -> None:
    assert refused_param({"role": "tool", "content": "text"}) == "messages[0].tool_call_id"


@pytest.mark.parametrize("role", ["system", "user"])
def test_only_the_assistant_may_say_nothing(role: str) -> None:
    assert refused_param({"role": role}) == "messages[0].content"
    assert translate({"role": "assistant"}) == [pb.Message(role=pb.ROLE_ASSISTANT)]


def test_only_the_assistant_calls_tools() -> None:
    message = {"role": "user", "content": "x", "tool_calls": [call("c1")]}
    assert refused_param(message) == "messages[0].tool_calls"


def test_an_empty_turn_of_a_broken_stream_is_kept() -> None:
    messages = translate({"role": "assistant", "content": ""}, {"role": "user", "content": "go on"})
    assert messages[0] == pb.Message(role=pb.ROLE_ASSISTANT)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_comes_back(field: str) -> None:
    [message] = translate({"role": "assistant", "content": "x", field: "because"})
    assert message.reasoning_content == "because"


def test_a_last_message_of_the_assistant_stays_last() -> None:
    messages = translate({"role": "user", "content": "count"}, {"role": "assistant", "content": "one, "})
    assert (messages[-1].role, messages[-1].content[0].text) == (pb.ROLE_ASSISTANT, "one, ")


@pytest.mark.parametrize("url", [f"data:image/png;base64,{PNG}", {"url": f"data:image/png;base64,{PNG}"}])
def test_an_image_is_decoded(url: Any) -> None:
    [message] = translate(image(url))
    assert message.content[1].image == pb.Image(data=b"\x89PNG", media_type="image/png")


@pytest.mark.parametrize("url", ["https://example.com/a.png", "file:///etc/passwd", "data:text/html;base64,AAAA"])
def test_nothing_is_fetched(url: str) -> None:
    assert refused_param(image({"url": url})) == "messages[0].content[1].image_url.url"


def test_a_broken_image_is_refused() -> None:
    assert refused_param(image("data:image/png;base64,@@@")) == "messages[0].content[1].image_url"


def test_an_image_part_needs_its_image() -> None:
    assert refused_param(image(None)) == "messages[0].content[1].image_url"


def test_a_text_part_needs_its_text() -> None:
    assert refused_param({"role": "user", "content": [{"type": "text"}]}) == "messages[0].content[0].text"
