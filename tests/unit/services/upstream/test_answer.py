from typing import Any

import pytest
from pydantic import SecretStr

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import BackendFailed, ContextLengthExceeded, NoWorker, Overloaded, ServiceError
from services.upstream.answer import AnswerReader
from services.upstream.errors import Remote

REMOTE = Remote("glm-4.7", "api.example", "GLM_KEY", SecretStr("sk-secret"))
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def read(*chunks: Any) -> tuple[list[pb.Delta], pb.Finish]:
    reader = AnswerReader(REMOTE)
    deltas = [piece for chunk in chunks for piece in reader.read(chunk)]
    rest, finish = reader.close()
    return deltas + rest, finish


def finished(reason: str, *chunks: Any) -> pb.Finish:
    return read(*chunks, {"choices": [{"delta": {}, "finish_reason": reason}]})[1]


def test_content_and_both_names_of_reasoning_are_told_apart() -> None:
    deltas, _ = read(
        delta(role="assistant", content=None),
        delta(reasoning_content="a"),
        delta(reasoning="b", reasoning_content=""),
        delta(content="c", reasoning_content="d", reasoning="d"),
        STOP,
    )
    assert [(piece.WhichOneof("piece"), piece.reasoning or piece.content) for piece in deltas] == [
        ("reasoning", "a"),
        ("reasoning", "b"),
        ("reasoning", "d"),
        ("content", "c"),
    ]


def test_a_character_cut_between_two_chunks_arrives_whole() -> None:
    deltas, _ = read(delta(content="ok \ud83d"), delta(content="\ude42"), STOP)
    assert [piece.content for piece in deltas] == ["ok ", "🙂"]


def test_half_a_character_at_the_end_is_replaced_not_lost() -> None:
    deltas, _ = read(delta(content="ok\ud83d"), STOP)
    assert [piece.content for piece in deltas] == ["ok", "\ufffd"]


CALL = delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}])


@pytest.mark.parametrize(
    ("reason", "with_text", "with_call"),
    [
        ("stop", pb.FINISH_REASON_STOP, pb.FINISH_REASON_TOOL_CALLS),
        ("tool_calls", pb.FINISH_REASON_STOP, pb.FINISH_REASON_TOOL_CALLS),
        ("function_call", pb.FINISH_REASON_STOP, pb.FINISH_REASON_TOOL_CALLS),
        ("eos_token", pb.FINISH_REASON_STOP, pb.FINISH_REASON_TOOL_CALLS),
        ("length", pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_LENGTH),
        ("content_filter", pb.FINISH_REASON_CONTENT_FILTER, pb.FINISH_REASON_CONTENT_FILTER),
        ("sensitive", pb.FINISH_REASON_CONTENT_FILTER, pb.FINISH_REASON_CONTENT_FILTER),
    ],
)
def test_each_reason_to_end_has_one_meaning(reason: str, with_text: int, with_call: int) -> None:
    assert finished(reason, delta(content="x")).reason == with_text
    assert finished(reason, CALL).reason == with_call


@pytest.mark.parametrize("reason", ["error", "network_error", "abort"])
def test_a_reason_that_means_failure_is_an_error(reason: str) -> None:
    with pytest.raises(BackendFailed, match=reason):
        finished(reason)


@pytest.mark.parametrize("chunks", [[], [delta(content="x")], [{"choices": [{"delta": {}, "finish_reason": ""}]}]])
def test_a_stream_without_finish_is_an_error(chunks: list[Any]) -> None:
    with pytest.raises(BackendFailed, match="without a finish reason"):
        read(*chunks)


USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 6},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
COUNTED = pb.Usage(prompt_token_count=9, completion_token_count=4, cached_token_count=6, reasoning_token_count=2)


@pytest.mark.parametrize(
    "chunks",
    [
        [STOP, {"choices": [], "usage": USAGE}],
        [{**STOP, "usage": USAGE}],
        [{"choices": [{"delta": {}, "finish_reason": "stop", "usage": USAGE}]}],
        [{**delta(content="x"), "usage": {"prompt_tokens": 9}}, STOP, {"choices": [], "usage": USAGE}],
    ],
    ids=["after the finish", "with the finish", "in the choice", "growing"],
)
def test_usage_is_found_wherever_it_comes(chunks: list[Any]) -> None:
    assert read(*chunks)[1].usage == COUNTED


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "prompt_tokens_details": None}])
def test_missing_usage_stays_zero(usage: Any) -> None:
    assert read({**STOP, "usage": usage})[1].usage == pb.Usage()


def test_deepseek_counts_cached_tokens_under_another_name() -> None:
    assert read({**STOP, "usage": {"prompt_cache_hit_tokens": 5}})[1].usage.cached_token_count == 5


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"error": {"message": "slow down", "code": 429}}, Overloaded),
        ({"error": {"message": "x", "code": "context_length_exceeded"}}, ContextLengthExceeded),
        ({"error": {"message": "engine died", "type": "server_error"}}, NoWorker),
        ({"error": "plain text"}, NoWorker),
        ({"code": 500, "msg": "404 NOT_FOUND", "success": False}, NoWorker),
    ],
)
def test_an_error_inside_the_stream_is_an_error(document: Any, error: type[ServiceError]) -> None:
    with pytest.raises(error):
        read(delta(content="x"), document, STOP)


@pytest.mark.parametrize(
    "chunk", [[], "text", 5, None, {"choices": ["x"]}, delta(content=7), delta(tool_calls=[3]), {"choices": 1}]
)
def test_a_chunk_of_another_form_is_an_error(chunk: Any) -> None:
    with pytest.raises(BackendFailed):
        read(chunk, STOP)


def test_other_choices_are_ignored() -> None:
    deltas, finish = read({"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]}, STOP)
    assert (deltas, finish.reason) == ([], pb.FINISH_REASON_STOP)


def test_log_probabilities_stay_with_their_content() -> None:
    entry = {
        "token": "h",
        "logprob": -0.5,
        "bytes": [104],
        "top_logprobs": [{"token": "ö", "logprob": -1.5, "bytes": None}],
    }
    chunk = {"choices": [{"delta": {"content": "h"}, "logprobs": {"content": [entry]}}]}
    deltas, _ = read(chunk, STOP)
    top = pb.TopLogprob(token="ö", token_bytes="ö".encode(), logprob=-1.5)
    assert list(deltas[0].logprobs) == [pb.TokenLogprob(token="h", token_bytes=b"h", logprob=-0.5, top=[top])]


def test_a_whole_answer_is_read_like_one_chunk() -> None:
    message = {"role": "assistant", "content": "hi", "reasoning_content": "hm", "tool_calls": None}
    deltas, finish = read({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE})
    assert [piece.reasoning or piece.content for piece in deltas] == ["hm", "hi"]
    assert (finish.reason, finish.usage) == (pb.FINISH_REASON_STOP, COUNTED)


def test_a_call_that_never_got_arguments_gets_an_empty_object_only_if_the_answer_is_whole() -> None:
    named = delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f"}}])
    whole, _ = read(named, STOP)
    assert "".join(piece.tool_call.arguments for piece in whole) == "{}"
    cut, _ = read(named, {"choices": [{"delta": {}, "finish_reason": "length"}]})
    assert "".join(piece.tool_call.arguments for piece in cut) == ""


def test_the_old_function_call_becomes_a_tool_call() -> None:
    deltas, finish = read(
        delta(function_call={"name": "f", "arguments": '{"a"'}),
        delta(function_call={"arguments": ":1}"}),
        {"choices": [{"delta": {}, "finish_reason": "function_call"}]},
    )
    assert deltas[0].tool_call.name == "f"
    assert "".join(piece.tool_call.arguments for piece in deltas) == '{"a":1}'
    assert finish.reason == pb.FINISH_REASON_TOOL_CALLS
