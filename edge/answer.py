"""Follows an answer event by event and gives it the two forms of OpenAI: chunks, or one object. Pure."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from edge.choice import FINISH_REASONS, Call, Choice, Object, logprob_object, timings_object, whole_choice
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import BackendFailed

Event = tuple[int, pb.GenerateResponse]


class Answer:
    """All choices of one answer."""

    def __init__(self, answer_id: str, *, created: int, choice_count: int = 1) -> None:
        self.id = answer_id
        self.created = created
        self.choices = [Choice() for _ in range(choice_count)]

    @property
    def is_admitted(self) -> bool:
        """Whether every choice holds a place."""
        return all(choice.admitted for choice in self.choices)

    @property
    def is_finished(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.finish for choice in self.choices)

    @property
    def model(self) -> str:
        """The model that answers; empty until that is known."""
        return next((choice.admitted.model for choice in self.choices if choice.admitted), "")

    def add(self, index: int, event: pb.GenerateResponse) -> Iterator[Object]:
        """Takes in an event of a choice, and yields the chunks that it makes."""
        choice = self.choices[index]
        match event.WhichOneof("event"):
            case "routed":
                choice.routed = event.routed
            case "admitted":
                choice.admitted = event.admitted
                yield self._chunk(index, {"role": "assistant", "content": ""})
            case "progress":
                choice.progress = event.progress
            case "delta":
                choice.progress = None
                yield from self._add_delta(index, choice, event.delta)
            case "finish":
                choice.finish = _checked(event.finish)
                chunk = self._chunk(index, {}, finish_reason=choice.finish_reason)
                yield {**chunk, "timings": timings_object(choice.finish)}

    def usage_chunk(self) -> Object:
        """The chunk behind the last finish reason, for those who asked for it."""
        return {**self._head("chat.completion.chunk"), "choices": [], **self._costs()}

    def completion(self) -> Object:
        """The whole answer as one object."""
        choices = [whole_choice(index, choice) for index, choice in enumerate(self.choices)]
        return {**self._head("chat.completion"), "choices": choices, **self._costs()}

    def usage(self) -> Object:
        """Tokens of all choices; they share one prompt, which counts once."""
        usages = [choice.finish.usage for choice in self.choices if choice.finish]
        prompt_count = max((usage.prompt_token_count for usage in usages), default=0)
        completion_count = sum(usage.completion_token_count for usage in usages)
        return {
            "prompt_tokens": prompt_count,
            "completion_tokens": completion_count,
            "total_tokens": prompt_count + completion_count,
            "prompt_tokens_details": _prompt_details(usages),
            "completion_tokens_details": {
                "reasoning_tokens": sum(usage.reasoning_token_count for usage in usages),
                "accepted_prediction_tokens": sum(usage.accepted_draft_token_count for usage in usages),
                "rejected_prediction_tokens": sum(usage.rejected_draft_token_count for usage in usages),
            },
        }

    def _add_delta(self, index: int, choice: Choice, delta: pb.Delta) -> Iterator[Object]:
        logprobs = [logprob_object(token) for token in delta.logprobs]
        choice.logprobs.extend(logprobs)
        match delta.WhichOneof("piece"):
            case "content":
                choice.content.append(delta.content)
                yield self._chunk(index, {"content": delta.content}, logprobs=logprobs)
            case "reasoning":
                choice.reasoning.append(delta.reasoning)
                yield self._chunk(index, {"reasoning_content": delta.reasoning}, logprobs=logprobs)
            case "tool_call":
                for part in self._add_tool_call(index, choice, delta.tool_call):
                    yield self._chunk(index, {"tool_calls": [part]})

    def _add_tool_call(self, choice_index: int, choice: Choice, delta: pb.ToolCallDelta) -> Iterator[Object]:
        if delta.index not in choice.calls:
            # Clients drop the whole answer over a call without an id.
            call = Call(delta.id or f"call_{self.id[-12:]}_{choice_index}_{delta.index}", delta.name)
            choice.calls[delta.index] = call
            function = {"name": call.name, "arguments": ""}
            yield {"index": delta.index, "id": call.id, "type": "function", "function": function}
        if delta.arguments:
            choice.calls[delta.index].arguments.append(delta.arguments)
            yield {"index": delta.index, "function": {"arguments": delta.arguments}}

    def _chunk(
        self, index: int, delta: Object, *, finish_reason: str | None = None, logprobs: list[Object] | None = None
    ) -> Object:
        choice: Object = {"index": index, "delta": delta, "finish_reason": finish_reason}
        if logprobs:
            choice["logprobs"] = {"content": logprobs, "refusal": None}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> Object:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _costs(self) -> Object:
        finishes = [choice.finish for choice in self.choices if choice.finish]
        return {"usage": self.usage(), "timings": timings_object(finishes[0]) if finishes else None}


def merge_adjacent(events: list[Event]) -> list[Event]:
    """Joins neighbouring pieces of text of one choice: a client that is behind gets fewer, longer chunks."""
    merged: list[Event] = []
    for (index, kind), group in groupby(events, key=lambda item: (item[0], _text_kind(item[1]))):
        run = list(group)
        if kind is None or len(run) == 1:
            merged.extend(run)
        else:
            merged.append((index, _joined(kind, [event.delta for _, event in run])))
    return merged


def _joined(kind: str, deltas: list[pb.Delta]) -> pb.GenerateResponse:
    logprobs = [token for delta in deltas for token in delta.logprobs]
    if kind == "content":
        delta = pb.Delta(content="".join(delta.content for delta in deltas), logprobs=logprobs)
    else:
        delta = pb.Delta(reasoning="".join(delta.reasoning for delta in deltas), logprobs=logprobs)
    return pb.GenerateResponse(delta=delta)


def _text_kind(event: pb.GenerateResponse) -> str | None:
    kind = event.delta.WhichOneof("piece") if event.HasField("delta") else None
    return kind if kind in ("content", "reasoning") else None


def _prompt_details(usages: Sequence[pb.Usage]) -> Object:
    """Counts cached tokens of the choice with the fewest; by place, as an extension, where the backend says it."""
    least = min(usages, key=lambda usage: usage.cached_token_count, default=pb.Usage())
    details: Object = {"cached_tokens": least.cached_token_count}
    if least.HasField("cached_from"):
        places = least.cached_from
        details["cached_from"] = {
            "parked": places.parked_token_count,
            "running": places.running_token_count,
            "ram": places.ram_token_count,
            "disk": places.disk_token_count,
            "remote": places.remote_token_count,
        }
    return details


def _checked(finish: pb.Finish) -> pb.Finish:
    if finish.reason not in FINISH_REASONS:
        raise BackendFailed("The answer ended without a reason.")
    return finish
