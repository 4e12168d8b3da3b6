"""One choice of an answer, and the objects that OpenAI's format makes of its parts. Pure."""

from dataclasses import dataclass, field
from typing import Any, Final

from edge.cache_object import cache_object
from localcode.inference.v1 import inference_pb2 as pb

FINISH_REASONS: Final = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_TOOL_CALLS: "tool_calls",
    pb.FINISH_REASON_CONTENT_FILTER: "content_filter",
}
_LEAST_LOGPROB: Final = -9999.0  # JSON has no infinity
Object = dict[str, Any]


@dataclass
class Call:
    """A function call as far as it is known."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


@dataclass
class Choice:
    """One of the answers to a request, as far as it is known."""

    routed: pb.Routed | None = None
    admitted: pb.Admitted | None = None
    progress: pb.Progress | None = None
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)
    logprobs: list[Object] = field(default_factory=list)
    finish: pb.Finish | None = None

    @property
    def finish_reason(self) -> str | None:
        """Why it ended, in OpenAI's words."""
        return None if self.finish is None else FINISH_REASONS[self.finish.reason]


def whole_choice(index: int, choice: Choice) -> Object:
    """A choice of an answer in one piece."""
    message: Object = {"role": "assistant", "content": "".join(choice.content), "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    if choice.calls:
        message["content"] = message["content"] or None
        message["tool_calls"] = [_whole_call(call) for _, call in sorted(choice.calls.items())]
    logprobs = {"content": choice.logprobs, "refusal": None} if choice.logprobs else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}


def _whole_call(call: Call) -> Object:
    function = {"name": call.name, "arguments": "".join(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def logprob_object(token: pb.TokenLogprob) -> Object:
    """How likely a token was."""
    return {**_token(token), "top_logprobs": [_token(alternative) for alternative in token.top]}


def _token(token: pb.TokenLogprob | pb.TopLogprob) -> Object:
    return {"token": token.token, "logprob": max(token.logprob, _LEAST_LOGPROB), "bytes": list(token.token_bytes)}


def timings_object(finish: pb.Finish) -> Object:
    """Names durations as llama-server does; `cache` is an extension, where the backend says it."""
    usage, timings = finish.usage, finish.timings
    prefilled_count = usage.prompt_token_count - usage.cached_token_count
    cache = {"cache": cache_object(usage, finish.cache)} if finish.HasField("cache") else {}
    return {
        "queue_ms": timings.queue_seconds * 1000,
        "cache_n": usage.cached_token_count,
        "prompt_n": prefilled_count,
        "prompt_ms": timings.prefill_seconds * 1000,
        "prompt_per_token_ms": _rate(timings.prefill_seconds * 1000, prefilled_count),
        "prompt_per_second": _rate(prefilled_count, timings.prefill_seconds),
        "predicted_n": usage.completion_token_count,
        "predicted_ms": timings.decode_seconds * 1000,
        "predicted_per_token_ms": _rate(timings.decode_seconds * 1000, usage.completion_token_count),
        "predicted_per_second": _rate(usage.completion_token_count, timings.decode_seconds),
        **cache,
    }


def _rate(count: float, amount: float) -> float:
    return count / amount if amount > 0 else 0.0
