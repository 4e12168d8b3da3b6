import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest, ModelNotFound, ServiceError, Unsupported
from services.upstream.settings import UpstreamSettings
from services.upstream.translate import to_body, token_limit

SETTINGS = UpstreamSettings(name="glm-4.7", model="glm-remote", aliases=("glm",))
HELLO = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text="hello")])
PICTURE = pb.Message(
    role=pb.ROLE_USER,
    content=[pb.ContentPart(text="see"), pb.ContentPart(image=pb.Image(data=b"\x89PNG", media_type="image/png"))],
)


def chat(*messages: pb.Message, **fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(chat=pb.ChatPrompt(messages=messages or (HELLO,), **fields))


def body(request: pb.GenerateRequest, **settings: Any) -> dict[str, Any]:
    return to_body(request, SETTINGS.model_copy(update=settings))


def test_the_least_request_sends_nothing_that_was_not_asked_for() -> None:
    assert body(chat()) == {
        "model": "glm-remote",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_conversation_with_calls_keeps_every_field() -> None:
    called = pb.ToolCall(id="c1", name="read", arguments_json='{"path": "a"}')
    messages = body(
        chat(
            pb.Message(role=pb.ROLE_SYSTEM, content=[pb.ContentPart(text="be"), pb.ContentPart(text="brief")]),
            pb.Message(role=pb.ROLE_ASSISTANT, reasoning_content="hm", tool_calls=[called]),
            pb.Message(role=pb.ROLE_TOOL, tool_call_id="c1", name="read", content=[pb.ContentPart(text="42")]),
        )
    )["messages"]
    function = {"name": "read", "arguments": '{"path": "a"}'}
    assert messages == [
        {"role": "system", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1", "name": "read"},
    ]


def test_samplers_go_by_their_usual_names() -> None:
    values: dict[str, Any] = {
        "typical_p": 0.5, "top_n_sigma": 1.5, "xtc_probability": 0.25, "xtc_threshold": 0.1, "dry_multiplier": 0.8,
        "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": -1, "dry_sequence_breakers": ["x"],
        "mirostat": 2, "mirostat_tau": 5.0, "mirostat_eta": 0.1, "dynatemp_range": 0.5, "dynatemp_exponent": 1.0,
        "repeat_last_n": 64, "adaptive_target": 0.5, "adaptive_decay": 0.9, "min_keep": 1, "ignore_eos": True,
    }  # fmt: skip
    request = chat()
    request.sampling.CopyFrom(pb.SamplingParams(**values, samplers=[pb.SAMPLER_TYPICAL_P, pb.SAMPLER_TEMPERATURE]))
    sent = body(request)
    assert {name: sent[name] for name in values} == values
    assert sent["samplers"] == ["typ_p", "temperature"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"sampling": pb.SamplingParams(text_bias=[pb.TextBias(text="a", bias=1)])}, "logit_bias"),
        ({"sampling": pb.SamplingParams(logit_bias={1: float("-inf")})}, "logit_bias"),
        ({"response_format": pb.ResponseFormat(regex="a+")}, "response_format"),
    ],
)
def test_what_only_local_models_can_do_is_refused(fields: dict[str, Any], param: str) -> None:
    request = chat()
    request.MergeFrom(pb.GenerateRequest(**fields))
    with pytest.raises(Unsupported) as caught:
        body(request)
    assert caught.value.param == param


def test_tools_keep_the_order_of_their_schema() -> None:
    schema = '{"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "integer"}}, "required": ["z"]}'
    tools = [pb.Tool(name="f", description="does", parameters_json=schema, strict=True), pb.Tool(name="g")]
    sent = body(chat(tools=tools, parallel_tool_calls=False))
    assert json.dumps(sent["tools"][0]["function"]["parameters"]) == schema
    assert sent["tools"][0]["function"]["strict"] is True
    assert sent["tools"][1] == {
        "type": "function",
        "function": {"name": "g", "parameters": {"type": "object", "properties": {}}},
    }
    assert sent["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_AUTO), "auto"),
        (pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE), "none"),
        (pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED), "required"),
        (
            pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NAMED, name="f"),
            {"type": "function", "function": {"name": "f"}},
        ),
    ],
)
def test_the_tool_choice_is_said_in_openai_terms(choice: pb.ToolChoice, expected: object) -> None:
    assert body(chat(tools=[pb.Tool(name="f")], tool_choice=choice))["tool_choice"] == expected


def test_a_tool_choice_without_tools_is_left_out() -> None:
    assert "tool_choice" not in body(chat(tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_AUTO)))


@given(st.integers(0, 10**6).map(lambda n: n / 10**5))
def test_decimals_survive_32_bit_floats(temperature: float) -> None:
    request = chat()
    request.sampling.temperature = temperature
    assert body(request)["temperature"] == temperature


def test_every_sampling_parameter_is_sent_also_when_it_is_zero() -> None:
    request = chat()
    request.sampling.CopyFrom(
        pb.SamplingParams(
            temperature=0, top_p=0.9, top_k=0, min_p=0.05, seed=0, frequency_penalty=-0.5, presence_penalty=0.25,
            repeat_penalty=1.1, logit_bias={5: -100},
        )
    )  # fmt: skip
    assert {
        "temperature": 0, "top_p": 0.9, "top_k": 0, "min_p": 0.05, "seed": 0, "frequency_penalty": -0.5,
        "presence_penalty": 0.25, "repeat_penalty": 1.1, "repetition_penalty": 1.1, "logit_bias": {"5": -100.0},
    }.items() <= body(request).items()  # fmt: skip


def test_stop_thinking_and_log_probabilities_are_passed() -> None:
    request = chat(reasoning_effort="low", template_kwargs_json='{"enable_thinking": false}')
    request.stop.append("END")
    request.top_logprobs = 0
    assert {
        "stop": ["END"],
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": False},
        "logprobs": True,
        "top_logprobs": 0,
    }.items() <= body(request).items()


def test_response_formats_are_said_in_openai_terms() -> None:
    request = chat()
    request.response_format.json_object = True
    assert body(request)["response_format"] == {"type": "json_object"}
    request.response_format.json_schema = '{"type": "object"}'
    assert body(request)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
    }


@pytest.mark.parametrize(
    ("wanted", "most", "expected"),
    [(None, None, 0), (None, 100, 100), (50, 100, 50), (500, 100, 100), (500, None, 500), (10**9, None, 131_072)],
)
def test_the_token_limit_is_lowered_to_what_the_remote_can(wanted: int | None, most: int | None, expected: int) -> None:
    request = chat()
    if wanted is not None:
        request.max_tokens = wanted
    assert token_limit(request, SETTINGS.model_copy(update={"max_output_tokens": most})) == expected


def test_images_travel_as_data_urls_to_models_that_see() -> None:
    assert body(chat(PICTURE), vision=True)["messages"][0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
    ]


def test_configured_fields_give_way_to_the_request() -> None:
    request = chat()
    request.sampling.temperature = 0.5
    sent = body(request, extra_body={"temperature": 1, "thinking": {"type": "disabled"}, "stream": False})
    assert (sent["temperature"], sent["thinking"], sent["stream"]) == (0.5, {"type": "disabled"}, True)


@pytest.mark.parametrize(
    ("request_", "error", "param"),
    [
        (pb.GenerateRequest(model="other", chat=chat().chat), ModelNotFound, "model"),
        (pb.GenerateRequest(text="once upon"), Unsupported, "prompt"),
        (pb.GenerateRequest(), InvalidRequest, "messages"),
        (chat(pb.Message(content=HELLO.content)), InvalidRequest, "messages"),
        (chat(PICTURE), InvalidRequest, "messages"),
        (chat(tools=[pb.Tool(name="f", parameters_json="{")]), InvalidRequest, "tools"),
        (chat(tools=[pb.Tool(name="f", parameters_json='{"a": NaN}')]), InvalidRequest, "tools"),
        (chat(template_kwargs_json="]"), InvalidRequest, "chat_template_kwargs"),
        (
            pb.GenerateRequest(chat=chat().chat, response_format=pb.ResponseFormat(grammar="root ::= a")),
            Unsupported,
            "grammar",
        ),
        (pb.GenerateRequest(chat=chat().chat, max_tokens=0), InvalidRequest, "max_tokens"),
        (pb.GenerateRequest(chat=chat().chat, resume_tokens=[1]), Unsupported, ""),
    ],
)
def test_what_the_remote_cannot_do_is_refused_by_name(
    request_: pb.GenerateRequest, error: type[ServiceError], param: str
) -> None:
    with pytest.raises(error) as refused:
        body(request_)
    assert refused.value.param == param


@pytest.mark.parametrize("name", ["", "glm-4.7", "glm"])
def test_the_name_and_its_aliases_are_one_model(name: str) -> None:
    assert body(pb.GenerateRequest(model=name, chat=chat().chat))["model"] == "glm-remote"
