"""OpenAI's Python SDK against the running system: what it sends and reads is what programs everywhere do."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.fakes.scripts import (
    GREETING,
    JSON_ANSWER,
    REASONED_ANSWER,
    REASONING,
    STORY,
    WEATHER_ANSWER,
)

pytestmark = pytest.mark.e2e

WEATHER_TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def user(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def test_an_answer_has_text_finish_reason_and_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="scripted", messages=user("Hi there"))
    assert answer.model == "scripted"
    assert answer.choices[0].message.content == GREETING
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0 < answer.usage.completion_tokens
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_ends_with_one_finish_reason_and_the_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="scripted", messages=user("Tell me a story"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert "".join(texts) == STORY
    assert sum(map(bool, texts)) > 1
    assert reasons == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


def test_a_tool_is_called_and_its_result_answered(client: openai.OpenAI) -> None:
    messages = user("How is the weather in Lisbon?")
    asked = client.chat.completions.create(model="scripted", messages=messages, tools=[WEATHER_TOOL])
    assert asked.choices[0].finish_reason == "tool_calls"
    assert not asked.choices[0].message.content
    (call,) = asked.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Lisbon"})
    messages += [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "24 degrees, no clouds"},
    ]
    answered = client.chat.completions.create(model="scripted", messages=messages, tools=[WEATHER_TOOL])
    assert answered.choices[0].message.content == WEATHER_ANSWER
    assert answered.usage is not None
    assert asked.usage is not None
    assert answered.usage.prompt_tokens_details is not None
    assert (answered.usage.prompt_tokens_details.cached_tokens or 0) >= asked.usage.prompt_tokens - 8


def test_a_tool_call_streams_its_id_and_name_first(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="scripted", messages=user("How is the weather in Lisbon?"), tools=[WEATHER_TOOL], stream=True
    )
    chunks = [chunk.choices[0] for chunk in stream if chunk.choices]
    deltas = [delta for chunk in chunks for delta in chunk.delta.tool_calls or []]
    assert deltas[0].id
    assert deltas[0].function is not None
    assert deltas[0].function.name == "get_weather"
    arguments = "".join(delta.function.arguments or "" for delta in deltas if delta.function)
    assert json.loads(arguments) == {"city": "Lisbon"}
    assert {delta.index for delta in deltas} == {0}
    assert chunks[-1].finish_reason == "tool_calls"


def test_reasoning_is_kept_apart_from_the_answer(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(model="scripted", messages=user("Think first: 6 x 7?")).choices[0].message
    assert message.content == REASONED_ANSWER
    assert message.to_dict()["reasoning_content"] == REASONING


def test_json_mode_gives_json(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="scripted", messages=user("Answer in JSON"), response_format={"type": "json_object"}
    )
    assert answer.choices[0].message.content == JSON_ANSWER


def test_max_tokens_ends_an_endless_answer_with_length(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="scripted", messages=user("Never stop"), max_tokens=40)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 40


def test_a_stop_text_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="scripted", messages=user("Tell me a story"), stop=["paper boat"])
    assert answer.choices[0].message.content == STORY.partition("paper boat")[0]
    assert answer.choices[0].finish_reason == "stop"


def test_four_streams_at_once_all_finish(client: openai.OpenAI, rounds: range) -> None:
    def story(number: int) -> str:
        stream = client.chat.completions.create(
            model="scripted", messages=user(f"Tell me a story, number {number}"), stream=True
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    with ThreadPoolExecutor(4) as pool:
        for _ in rounds:
            assert list(pool.map(story, range(4))) == [STORY] * 4


def test_models_are_listed_with_their_context(client: openai.OpenAI) -> None:
    (model,) = [model for model in client.models.list() if model.id == "scripted"]
    assert 8192 in model.to_dict().values()
