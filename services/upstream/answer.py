"""Turns the chunks of a remote's answer into deltas and a finish. Pure, but for the ids it makes up."""

from typing import Any, Final

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import BackendFailed
from services.upstream.errors import Remote, stream_error
from services.upstream.surrogates import CharacterJoiner, whole
from services.upstream.tool_calls import ToolCallReader

_REASONS: Final = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "max_tokens": pb.FINISH_REASON_LENGTH,
    "model_context_window_exceeded": pb.FINISH_REASON_LENGTH,
    "tool_calls": pb.FINISH_REASON_TOOL_CALLS,
    "function_call": pb.FINISH_REASON_TOOL_CALLS,
    "content_filter": pb.FINISH_REASON_CONTENT_FILTER,
    "sensitive": pb.FINISH_REASON_CONTENT_FILTER,
}
_CUT_REASONS: Final = {pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_CONTENT_FILTER}
_FAILURES: Final = {"error", "network_error", "abort"}
_MAX_COUNT: Final = 2**32 - 1


class AnswerReader:
    """Follows one answer, chunk by chunk."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._content = CharacterJoiner()
        self._reasoning = CharacterJoiner()
        self._calls = ToolCallReader()
        self._reason = ""
        self._usage = pb.Usage()

    @property
    def has_reason(self) -> bool:
        """Whether the remote has said why its answer ends; only usage may follow."""
        return bool(self._reason)

    def read(self, chunk: Any) -> list[pb.Delta]:
        """Returns what a chunk adds to the answer."""
        try:
            return self._read(chunk)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise BackendFailed(f"{self._remote} sent a chunk of an unknown form.") from error

    def close(self) -> tuple[list[pb.Delta], pb.Finish]:
        """Ends the answer; one that gave no reason to end was cut."""
        if not self._reason:
            raise BackendFailed(f"{self._remote} ended its answer without a finish reason.")
        reason = self._finish_reason()
        calls = self._calls.close(is_whole=reason not in _CUT_REASONS)
        rest = _deltas(self._reasoning.close(), self._content.close(), calls)
        return rest, pb.Finish(reason=reason, usage=self._usage)

    def _read(self, chunk: dict[str, Any]) -> list[pb.Delta]:
        if chunk.get("error") or (not chunk.get("choices") and (chunk.get("msg") or chunk.get("message"))):
            raise stream_error(self._remote, chunk)
        self._note_usage(chunk.get("usage"))
        choice = next((choice for choice in chunk.get("choices") or () if not choice.get("index")), None)
        if choice is None:
            return []
        self._note_usage(choice.get("usage"))
        deltas = self._read_delta(choice.get("delta") or choice.get("message") or {})
        _attach(deltas, (choice.get("logprobs") or {}).get("content") or ())
        if reason := choice.get("finish_reason"):
            self._note_reason(str(reason))
        return deltas

    def _read_delta(self, delta: dict[str, Any]) -> list[pb.Delta]:
        pieces = list(delta.get("tool_calls") or ())
        if delta.get("function_call"):  # the form before `tool_calls`, one call at most
            pieces.append({"function": delta["function_call"]})
        calls = [call for piece in pieces for call in self._calls.read(piece)]
        reasoning = self._reasoning.feed(delta.get("reasoning_content") or delta.get("reasoning") or "")
        content = self._content.feed(delta.get("content") or delta.get("refusal") or "")
        return _deltas(reasoning, content, calls)

    def _note_usage(self, usage: dict[str, Any] | None) -> None:
        if not usage:
            return
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        details = usage.get("completion_tokens_details") or {}
        self._usage = pb.Usage(
            prompt_token_count=_count(usage.get("prompt_tokens")),
            completion_token_count=_count(usage.get("completion_tokens")),
            cached_token_count=_count(cached or usage.get("prompt_cache_hit_tokens")),
            reasoning_token_count=_count(details.get("reasoning_tokens")),
            accepted_draft_token_count=_count(details.get("accepted_prediction_tokens")),
            rejected_draft_token_count=_count(details.get("rejected_prediction_tokens")),
        )

    def _note_reason(self, reason: str) -> None:
        if reason in _FAILURES:
            raise BackendFailed(f"{self._remote} broke its answer off ({reason}).")
        self._reason = reason

    def _finish_reason(self) -> "pb.FinishReason.ValueType":
        """Maps the reason; whether there are calls decides between `stop` and `tool_calls`, for remotes mix them up."""
        reason = _REASONS.get(self._reason, pb.FINISH_REASON_STOP)
        if reason in _CUT_REASONS:
            return reason
        return pb.FINISH_REASON_TOOL_CALLS if self._calls.has_calls else pb.FINISH_REASON_STOP


def _deltas(reasoning: str, content: str, calls: list[pb.ToolCallDelta]) -> list[pb.Delta]:
    deltas = [pb.Delta(reasoning=reasoning)] if reasoning else []
    deltas += [pb.Delta(content=content)] if content else []
    return deltas + [pb.Delta(tool_call=call) for call in calls]


def _attach(deltas: list[pb.Delta], logprobs: Any) -> None:
    content = next((delta for delta in deltas if delta.HasField("content")), None)
    if content is not None:
        content.logprobs.extend(_logprob(entry) for entry in logprobs)


def _logprob(entry: dict[str, Any]) -> pb.TokenLogprob:
    top = [pb.TopLogprob(**_token(other)) for other in entry.get("top_logprobs") or ()]
    return pb.TokenLogprob(**_token(entry), top=top)


def _token(entry: dict[str, Any]) -> dict[str, Any]:
    token = whole(entry["token"])
    token_bytes = bytes(entry["bytes"]) if entry.get("bytes") is not None else token.encode()
    return {"token": token, "token_bytes": token_bytes, "logprob": entry["logprob"]}


def _count(value: Any) -> int:
    return min(max(int(value or 0), 0), _MAX_COUNT)
