import json

import httpx
import pytest

from bench.client import Timing, chat, take_chunk

CHUNKS = (
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": "Hel"}}]},
    {"choices": [{"delta": {"content": "lo"}}]},
    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    {
        "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
    },
)


def answering(*events: object, status: int = 200) -> httpx.AsyncClient:
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + ": comment\n\ndata: [DONE]\n\n"
    transport = httpx.MockTransport(lambda request: httpx.Response(status, text=text))
    return httpx.AsyncClient(base_url="http://server", transport=transport)


async def test_a_stream_is_read_to_its_end_and_counted() -> None:
    async with answering(*CHUNKS) as client:
        timing = await chat(client, {"messages": []})
    assert (timing.text, timing.finish_reason, len(timing.arrivals)) == ("Hello", "stop", 2)
    assert timing.sizes == [3, 2]
    assert (timing.prompt_tokens, timing.cached_tokens, timing.prefilled_tokens) == (9, 4, 5)
    assert 0 < timing.ttft_seconds <= timing.total_seconds
    assert len(timing.gaps_seconds) == 1


async def test_an_answer_that_shows_nothing_has_its_end_as_first_token() -> None:
    async with answering(*CHUNKS[3:]) as client:
        timing = await chat(client, {"messages": []})
    assert timing.ttft_seconds == timing.total_seconds


@pytest.mark.parametrize("client", [answering(status=400), answering({"error": {"message": "no"}})])
async def test_a_refusal_or_an_error_in_the_stream_is_raised(client: httpx.AsyncClient) -> None:
    async with client:
        with pytest.raises(RuntimeError):
            await chat(client, {"messages": []})


async def test_an_answer_that_was_asked_to_go_on_but_ended_is_no_measurement() -> None:
    async with answering(*CHUNKS) as client:
        with pytest.raises(RuntimeError, match="after 2 of 3 tokens"):
            await chat(client, {"messages": [], "max_tokens": 3, "ignore_eos": True})
        assert (await chat(client, {"messages": [], "max_tokens": 2, "ignore_eos": True})).text == "Hello"


def test_pieces_of_tool_calls_are_put_together() -> None:
    timing = Timing()
    for call in (
        {"index": 0, "id": "a", "function": {"name": "read", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"file'}},
        {"index": 0, "function": {"arguments": 'Path":1}'}},
        {"index": 1, "id": "b", "function": {"name": "glob", "arguments": "{}"}},
    ):
        assert take_chunk(timing, {"choices": [{"delta": {"tool_calls": [call]}}]})
    assert timing.calls == [
        {"name": "read", "arguments": '{"filePath":1}'},
        {"name": "glob", "arguments": "{}"},
    ]
