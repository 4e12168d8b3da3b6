from typing import Any

import pytest

from edge.answer import Answer, merge_adjacent
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import BackendFailed
from tests.fakes.inference import admitted, content, finish, progress, reasoning, tool_call


def answer_to(*events: pb.GenerateResponse | tuple[int, pb.GenerateResponse], choice_count: int = 1) -> Answer:
    answer = Answer("chatcmpl-0123456789abcdef", created=5, choice_count=choice_count)
    for event in events:
        index, response = event if isinstance(event, tuple) else (0, event)
        list(answer.add(index, response))
    return answer


def choices_of(*events: pb.GenerateResponse) -> list[dict[str, Any]]:
    answer = Answer("chatcmpl-0123456789abcdef", created=5)
    return [chunk["choices"][0] for event in events for chunk in answer.add(0, event)]


def deltas(*events: pb.GenerateResponse) -> list[dict[str, Any]]:
    return [choice["delta"] for choice in choices_of(*events)]


def test_a_chunk_has_the_reference_form() -> None:
    answer = Answer("chatcmpl-1", created=5)
    assert list(answer.add(0, admitted())) == [
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 5,
            "model": "coder",
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        }
    ]


def test_progress_makes_no_chunk() -> None:
    assert deltas(progress(pb.PHASE_QUEUED, queue_position=2)) == []


def test_text_and_reasoning_have_their_fields() -> None:
    assert deltas(reasoning("hm"), content("yes")) == [{"reasoning_content": "hm"}, {"content": "yes"}]


def test_a_call_begins_with_id_type_and_name() -> None:
    parts = deltas(tool_call(0, id="call_a", name="read"), tool_call(0, '{"a":'), tool_call(0, "1}"))
    assert [part["tool_calls"][0] for part in parts] == [
        {"index": 0, "id": "call_a", "type": "function", "function": {"name": "read", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a":'}},
        {"index": 0, "function": {"arguments": "1}"}},
    ]


def test_a_call_in_one_piece_still_begins_with_empty_arguments() -> None:
    parts = deltas(tool_call(0, "{}", id="call_a", name="read"))
    assert [part["tool_calls"][0]["function"] for part in parts] == [
        {"name": "read", "arguments": ""},
        {"arguments": "{}"},
    ]


def test_a_call_without_an_id_gets_one_of_its_own() -> None:
    parts = deltas(tool_call(0, name="read"), tool_call(1, name="read"))
    ids = [part["tool_calls"][0]["id"] for part in parts]
    assert len(set(ids)) == 2
    assert all(ids)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (pb.FINISH_REASON_STOP, "stop"),
        (pb.FINISH_REASON_LENGTH, "length"),
        (pb.FINISH_REASON_TOOL_CALLS, "tool_calls"),
        (pb.FINISH_REASON_CONTENT_FILTER, "content_filter"),
    ],
)
def test_the_finish_chunk_says_why(reason: pb.FinishReason, expected: str) -> None:
    assert choices_of(finish(reason)) == [{"index": 0, "delta": {}, "finish_reason": expected}]


def test_the_finish_chunk_tells_its_durations_as_llama_server_does() -> None:
    answer = Answer("chatcmpl-0123456789abcdef", created=5)
    [chunk] = answer.add(0, finish())
    assert chunk["timings"] == {
        "queue_ms": 100.0,
        "cache_n": 8,
        "prompt_n": 2,
        "prompt_ms": 500.0,
        "prompt_per_token_ms": 250.0,
        "prompt_per_second": 4.0,
        "predicted_n": 3,
        "predicted_ms": 1500.0,
        "predicted_per_token_ms": 500.0,
        "predicted_per_second": 2.0,
    }


def test_a_finish_without_a_reason_is_an_error() -> None:
    with pytest.raises(BackendFailed):
        answer_to(finish(pb.FINISH_REASON_UNSPECIFIED))


def test_logprobs_go_with_their_text() -> None:
    top = [pb.TopLogprob(token="a", token_bytes=b"a", logprob=-0.5), pb.TopLogprob(token="b", logprob=float("-inf"))]
    [choice] = choices_of(content("a", logprobs=[pb.TokenLogprob(token="a", token_bytes=b"a", logprob=-0.5, top=top)]))
    assert choice["logprobs"]["content"] == [
        {
            "token": "a",
            "logprob": -0.5,
            "bytes": [97],
            "top_logprobs": [
                {"token": "a", "logprob": -0.5, "bytes": [97]},
                {"token": "b", "logprob": -9999.0, "bytes": []},
            ],
        }
    ]


def test_usage_has_all_four_counts_and_timings() -> None:
    chunk = answer_to(admitted(), finish(reasoning_token_count=2)).usage_chunk()
    assert chunk["choices"] == []
    assert chunk["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {
            "reasoning_tokens": 2,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    assert (chunk["timings"]["prompt_n"], chunk["timings"]["prompt_per_second"]) == (2, 4.0)


def test_usage_says_how_many_guesses_were_right() -> None:
    counts = {"accepted_draft_token_count": 7, "rejected_draft_token_count": 2}
    details = answer_to(admitted(), finish(**counts)).usage()["completion_tokens_details"]
    assert (details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]) == (7, 2)


def test_where_cached_tokens_came_from_is_told_if_the_backend_tells_it() -> None:
    places = pb.CacheSources(parked_token_count=3, ram_token_count=5)
    usage = answer_to(admitted(), finish(cached_token_count=8, cached_from=places)).usage()
    assert usage["prompt_tokens_details"] == {
        "cached_tokens": 8,
        "cached_from": {"parked": 3, "running": 0, "ram": 5, "disk": 0, "remote": 0},
    }


def test_what_became_of_a_prompt_in_the_caches_goes_with_the_timings() -> None:
    texts = {"excerpt": "Date: 2", "known_excerpt": "Date: 1"}
    place = pb.PromptPlace(token_index=7, message_index=0, role=pb.ROLE_SYSTEM, **texts)
    end = finish(cached_from=pb.CacheSources(disk_token_count=6, remote_token_count=2))
    end.finish.cache.CopyFrom(
        pb.CacheExplanation(
            restore_seconds=0.25, miss=pb.CACHE_MISS_DIFFERS, known_token_count=7, place=place,
            repeated_token_count=30, repeated_seconds=0.5, remedy="Move it.",
        )
    )  # fmt: skip
    expected = {
        "running": 0, "parked": 0, "ram": 0, "disk": 6, "remote": 2, "restore_ms": 250.0,
        "miss": {
            "reason": "differs", "known_tokens": 7, "repeated_tokens": 30, "repeated_ms": 500.0,
            "place": {"token": 7, "message": 0, "part": "system", **texts},
            "remedy": "Move it.",
        },
    }  # fmt: skip
    answer = answer_to(admitted())
    [chunk] = answer.add(0, end)
    for told in (chunk, answer.usage_chunk(), answer.completion()):
        assert told["timings"]["cache"] == expected


def test_where_nothing_was_missing_there_is_no_reason() -> None:
    end = finish()
    end.finish.cache.CopyFrom(pb.CacheExplanation(known_token_count=7))
    assert answer_to(admitted(), end).completion()["timings"]["cache"]["miss"] is None


def test_choices_share_one_prompt() -> None:
    answer = answer_to((0, finish(cached_token_count=0)), (1, finish(cached_token_count=9)), choice_count=2)
    usage = answer.usage()
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (10, 6, 16)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0


def test_the_whole_answer_is_one_object() -> None:
    whole = answer_to(admitted(), reasoning("hm"), content("a"), content("b"), finish()).completion()
    assert whole["object"] == "chat.completion"
    assert whole["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "ab", "refusal": None, "reasoning_content": "hm"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


def test_a_whole_answer_of_calls_has_no_content() -> None:
    calls = (tool_call(1, "{}", id="b", name="list"), tool_call(0, "{", id="a", name="read"), tool_call(0, "}"))
    message = answer_to(admitted(), *calls, finish(pb.FINISH_REASON_TOOL_CALLS)).completion()["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "read", "arguments": "{}"}},
        {"id": "b", "type": "function", "function": {"name": "list", "arguments": "{}"}},
    ]


def test_an_answer_is_finished_when_all_choices_are() -> None:
    assert not answer_to((0, finish()), choice_count=2).is_finished
    assert answer_to((0, finish()), (1, finish()), choice_count=2).is_finished


def test_waiting_text_is_joined() -> None:
    token = pb.TokenLogprob(token="a")
    events = [
        (0, content("a", logprobs=[token])),
        (0, content("b", logprobs=[token])),
        (0, reasoning("c")),
        (0, reasoning("d")),
    ]
    merged = merge_adjacent(events)
    assert [(event.delta.content, event.delta.reasoning) for _, event in merged] == [("ab", ""), ("", "cd")]
    assert len(merged[0][1].delta.logprobs) == 2


def test_only_text_of_one_choice_is_joined() -> None:
    events = [(0, content("a")), (1, content("b")), (1, tool_call(0, "{")), (1, tool_call(0, "}")), (1, finish())]
    assert len(merge_adjacent(events)) == 5
