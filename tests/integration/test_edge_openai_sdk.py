"""OpenAI's own client against the edge: what it accepts, users of the SDK get."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import ContextLengthExceeded, NoWorker
from tests.fakes.edge import serving_edge
from tests.fakes.inference import (
    FakeInferenceService,
    admitted,
    content,
    finish,
    serving,
    spoken,
    tool_call,
)

pytestmark = pytest.mark.integration

MESSAGES: Any = [{"role": "user", "content": "hi"}]
TOOLS: Any = [{"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}]


@pytest.fixture
async def fake() -> FakeInferenceService:
    return FakeInferenceService()


@pytest.fixture
async def sdk(fake: FakeInferenceService) -> AsyncIterator[openai.AsyncOpenAI]:
    async with serving(fake) as address, serving_edge(address) as url:
        http_client = httpx.AsyncClient(trust_env=False, timeout=10)
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="any", max_retries=0, http_client=http_client
        ) as client:
            yield client


async def test_an_answer_in_one_piece(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(model="coder", messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 8


async def test_a_stream(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model="coder", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello world"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 13


async def test_a_tool_call(fake: FakeInferenceService, sdk: openai.AsyncOpenAI) -> None:
    fake.script = lambda _: [
        admitted(),
        tool_call(0, id="call_a", name="read"),
        tool_call(0, '{"filePath":"a"}'),
        tool_call(1, '{"filePath":"b"}', id="call_b", name="read"),
        finish(pb.FINISH_REASON_TOOL_CALLS),
    ]
    answer = await sdk.chat.completions.create(
        model="coder", messages=MESSAGES, tools=TOOLS, tool_choice="required", parallel_tool_calls=True
    )
    calls = answer.choices[0].message.tool_calls or []
    assert [(call.id, call.type, call.function.arguments) for call in calls if call.type == "function"] == [
        ("call_a", "function", '{"filePath":"a"}'),
        ("call_b", "function", '{"filePath":"b"}'),
    ]
    assert fake.requests[0].chat.tool_choice.mode == pb.TOOL_CHOICE_MODE_REQUIRED


async def test_a_streamed_tool_call_is_put_together(fake: FakeInferenceService, sdk: openai.AsyncOpenAI) -> None:
    fake.script = lambda _: [
        admitted(),
        tool_call(0, id="call_a", name="read"),
        tool_call(0, '{"filePath":'),
        tool_call(0, '"a"}'),
        finish(pb.FINISH_REASON_TOOL_CALLS),
    ]
    async with sdk.chat.completions.stream(model="coder", messages=MESSAGES, tools=TOOLS) as stream:
        answer = await stream.get_final_completion()
    [call] = answer.choices[0].message.tool_calls or []
    assert (call.id, call.function.name, call.function.arguments) == ("call_a", "read", '{"filePath":"a"}')
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
async def test_two_choices(fake: FakeInferenceService, sdk: openai.AsyncOpenAI, stream: bool) -> None:
    fake.script = lambda request: spoken(f"seed {request.sampling.seed}")
    if stream:
        texts = {0: "", 1: ""}
        chunks = await sdk.chat.completions.create(model="coder", messages=MESSAGES, n=2, seed=1, stream=True)
        async for chunk in chunks:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
    else:
        answer = await sdk.chat.completions.create(model="coder", messages=MESSAGES, n=2, seed=1)
        texts = {choice.index: choice.message.content or "" for choice in answer.choices}
    assert texts == {0: "seed 1", 1: "seed 2"}


async def test_logprobs(fake: FakeInferenceService, sdk: openai.AsyncOpenAI) -> None:
    top = [pb.TopLogprob(token="a", token_bytes=b"a", logprob=-0.25)]
    token = pb.TokenLogprob(token="a", token_bytes=b"a", logprob=-0.25, top=top)
    fake.script = lambda _: [admitted(), content("a", logprobs=[token]), finish()]
    answer = await sdk.chat.completions.create(model="coder", messages=MESSAGES, logprobs=True, top_logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert (logprobs.content[0].logprob, logprobs.content[0].top_logprobs[0].token) == (-0.25, "a")
    assert fake.requests[0].top_logprobs == 1


async def test_a_bad_request_is_the_sdks_own_error(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.chat.completions.create(model="coder", messages=MESSAGES, max_tokens=-1)
    assert caught.value.param == "max_tokens"
    assert caught.value.request_id


async def test_an_overflow_has_its_code(fake: FakeInferenceService, sdk: openai.AsyncOpenAI) -> None:
    fake.script = lambda _: [ContextLengthExceeded.of(40_000, 32_768)]
    with pytest.raises(openai.BadRequestError, match="maximum context length is 32768 tokens") as caught:
        await sdk.chat.completions.create(model="coder", messages=MESSAGES, stream=True)
    assert caught.value.code == "context_length_exceeded"


async def test_an_error_in_the_middle_of_a_stream_is_raised(
    fake: FakeInferenceService, sdk: openai.AsyncOpenAI
) -> None:
    fake.script = lambda _: [admitted(), content("a"), NoWorker("the worker has died")]
    stream = await sdk.chat.completions.create(model="coder", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="the worker has died"):
        async for _chunk in stream:
            pass


async def test_models(sdk: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in sdk.models.list()] == ["coder", "default", "small"]
    assert (await sdk.models.retrieve("coder")).owned_by == "Qwen"
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("nope")
