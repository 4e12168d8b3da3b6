"""One answer while it is generated: from tokens to the deltas that a client sees."""

import secrets
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.detokenize import Detokenizer
from services.worker.pieces import Piece
from services.worker.reasoning import Reasoning
from services.worker.stop import StopMatcher
from services.worker.tool_calls import GENERIC, CallArguments, CallEnd, CallStart, Event, Format, Text
from services.worker.tool_calls.run_on import RunOn

_ID_ALPHABET: Final = string.ascii_letters + string.digits
_ID_LENGTH: Final = 24


def new_call_id() -> str:
    """Makes the id of a tool call."""
    return "call_" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))


class Answer:
    """Turns tokens into text, finds stop texts, splits off reasoning and finds tool calls; used by one thread.

    Every delta carries the tokens since the delta before it, also those whose text is still held back.
    """

    def __init__(
        self,
        *,
        stop: Sequence[str] = (),
        tools: Sequence[pb.Tool] = (),
        tool_choice: pb.ToolChoice | None = None,
        parallel_tool_calls: bool = True,
        reasoning: Reasoning | None = None,
        call_format: Format = GENERIC,
        make_call_id: Callable[[], str] = new_call_id,
    ) -> None:
        calls_allowed = tool_choice is None or tool_choice.mode != pb.TOOL_CHOICE_MODE_NONE
        self._detokenizer = Detokenizer()
        self._stops = StopMatcher(stop)
        self._reasoning = reasoning.splitter() if reasoning else None
        self._calls = call_format.parser(tools) if tools and calls_allowed else None
        self._has_parallel_calls = parallel_tool_calls
        self._run_on = RunOn()
        self._make_call_id = make_call_id
        self._token_ids: list[int] = []
        self._logprobs: list[pb.TokenLogprob] = []
        self._stop_sequence = ""
        self._is_done = False
        self._is_cut_after_a_call = False
        self._has_tool_calls = False
        self._reasoning_token_count = 0

    @property
    def stop_sequence(self) -> str:
        """The stop text that was found, or empty."""
        return self._stop_sequence

    @property
    def has_tool_calls(self) -> bool:
        """Whether a call was delivered, complete or not."""
        return self._has_tool_calls

    @property
    def reasoning_token_count(self) -> int:
        """Tokens that were reasoning, its tags included."""
        return self._reasoning_token_count

    @property
    def is_done(self) -> bool:
        """Whether nothing more is wanted: a stop text was found, or the last call that is allowed is complete."""
        return self._is_done

    @property
    def is_cut_after_a_call(self) -> bool:
        """Whether the answer was ended at or behind a call, so that the model did not write what stands at its end."""
        return self._is_cut_after_a_call

    @property
    def is_in_call(self) -> bool:
        """Whether what comes next belongs to an object that may be a call."""
        return self._calls is not None and self._calls.is_in_call

    @property
    def call_opening(self) -> str:
        """A call from its brace or marker on, while its name is all that comes next; empty anywhere else."""
        return self._calls.opening if self._calls is not None else ""

    @property
    def misnamed_call(self) -> str:
        """The object of a call from its brace on, if its name was not offered but arguments follow; else empty."""
        return self._calls.misnamed if self._calls is not None else ""

    def feed(self, token_id: int, piece: bytes, logprob: pb.TokenLogprob | None = None) -> list[pb.Delta]:
        """Takes the next token and returns what became visible."""
        if self._is_done:
            return []
        self._token_ids.append(token_id)
        was_reasoning = self._is_reasoning
        deltas = self._take(self._detokenizer.feed(piece))
        if was_reasoning or self._is_reasoning:
            self._reasoning_token_count += 1
        elif logprob is not None:
            self._logprobs.append(logprob)
        return self._stamped(deltas)

    def finish(self, *, ended_by_model: bool) -> list[pb.Delta]:
        """Ends the answer and returns what was held back; `ended_by_model` is false if a limit cut it."""
        deltas: list[pb.Delta] = []
        if not self._is_done:
            deltas = self._take(self._detokenizer.flush())
        if not self._is_done:
            deltas += self._split(self._stops.flush())
        deltas += self._drain(ended_by_model=ended_by_model and not self._stop_sequence)
        deltas = self._stamped(merged(deltas))
        if self._token_ids:
            deltas += self._stamped([pb.Delta(content="")])
        self._is_done = True
        return deltas

    @property
    def _is_reasoning(self) -> bool:
        return self._reasoning is not None and self._reasoning.is_reasoning

    def _take(self, text: str) -> list[pb.Delta]:
        if not text:
            return []
        found = self._stops.feed(text)
        deltas = self._split(found.text)
        if found.stop is not None and not self._is_done:
            self._stop_sequence = found.stop
            self._is_done = True
        return deltas

    def _split(self, text: str) -> list[pb.Delta]:
        if self._reasoning is None:
            return self._parse(text)
        return self._route(self._reasoning.feed(text))

    def _drain(self, *, ended_by_model: bool) -> list[pb.Delta]:
        deltas = self._route(self._reasoning.flush()) if self._reasoning else []
        if self._calls is not None and not self._is_cut_after_a_call:
            deltas += self._to_deltas(self._calls.finish(ended_by_model=ended_by_model))
        return deltas

    def _route(self, pieces: Iterable[Piece]) -> list[pb.Delta]:
        deltas: list[pb.Delta] = []
        for piece in pieces:
            deltas += [pb.Delta(reasoning=piece.text)] if piece.is_reasoning else self._parse(piece.text)
        return deltas

    def _parse(self, text: str) -> list[pb.Delta]:
        if not text:
            return []
        if self._calls is None:
            return [pb.Delta(content=text)]
        return self._to_deltas(self._calls.feed(text))

    def _to_deltas(self, events: Iterable[Event]) -> list[pb.Delta]:
        deltas: list[pb.Delta] = []
        for event in events:
            is_too_much = self._run_on.is_too_much(event)
            if not isinstance(event, CallEnd):
                deltas.append(self._to_delta(event))
            elif not self._has_parallel_calls:
                is_too_much = True
            if is_too_much:
                self._is_done = self._is_cut_after_a_call = True
                break
        return merged(deltas)

    def _to_delta(self, event: Text | CallStart | CallArguments) -> pb.Delta:
        if isinstance(event, Text):
            return pb.Delta(content=event.text)
        if isinstance(event, CallArguments):
            return pb.Delta(tool_call=pb.ToolCallDelta(index=event.index, arguments=event.text))
        self._has_tool_calls = True
        return pb.Delta(tool_call=pb.ToolCallDelta(index=event.index, id=self._make_call_id(), name=event.name))

    def _stamped(self, deltas: list[pb.Delta]) -> list[pb.Delta]:
        """Gives the first delta the tokens behind it, and the first content the log-probabilities."""
        if not deltas:
            return deltas
        deltas[0].token_ids.extend(self._token_ids)
        self._token_ids.clear()
        if self._logprobs:
            content = next((delta for delta in deltas if delta.content), None)
            if content is not None:
                content.logprobs.extend(self._logprobs)
            self._logprobs.clear()
        return deltas


def merged(deltas: list[pb.Delta]) -> list[pb.Delta]:
    """Joins neighbours of one kind."""
    joined: list[pb.Delta] = []
    for delta in deltas:
        if not (joined and absorb(joined[-1], delta)):
            joined.append(delta)
    return joined


def absorb(delta: pb.Delta, following: pb.Delta) -> bool:
    """Appends one delta to another, if they are of one kind."""
    kind = following.WhichOneof("piece")
    if delta.WhichOneof("piece") != kind:
        return False
    if kind == "content":
        delta.content += following.content
    elif kind == "reasoning":
        delta.reasoning += following.reasoning
    elif following.tool_call.id or delta.tool_call.index != following.tool_call.index:
        return False
    else:
        delta.tool_call.arguments += following.tool_call.arguments
    delta.token_ids.extend(following.token_ids)
    delta.logprobs.extend(following.logprobs)
    return True
