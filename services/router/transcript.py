"""What a client has been sent of an answer, in few events."""

from typing import Final

from localcode.inference.v1 import inference_pb2 as pb

_MAX_JOINED: Final = 4096  # characters; a longer event would be copied too often


class Transcript:
    """The events of an answer from its beginning: neighbouring pieces of text joined, and the latest progress alone."""

    def __init__(self) -> None:
        self.events: list[pb.GenerateResponse] = []
        self._is_sealed = False

    def replay(self) -> list[pb.GenerateResponse]:
        """Returns the events so far, which do not change any more."""
        self._is_sealed = True
        return list(self.events)

    def add(self, event: pb.GenerateResponse) -> None:
        """Takes the next event."""
        if self.events and self.events[-1].HasField("progress"):
            self.events.pop()
        if not (event.HasField("delta") and self._join(event.delta)):
            copy = pb.GenerateResponse()
            copy.CopyFrom(event)
            self.events.append(copy)
            self._is_sealed = False

    def _join(self, delta: pb.Delta) -> bool:
        if self._is_sealed or not self.events or not self.events[-1].HasField("delta"):
            return False
        last, kind = self.events[-1].delta, delta.WhichOneof("piece")
        if last.WhichOneof("piece") != kind:
            return False
        if kind == "content" and len(last.content) < _MAX_JOINED:
            last.content += delta.content
        elif kind == "reasoning" and len(last.reasoning) < _MAX_JOINED:
            last.reasoning += delta.reasoning
        elif kind == "tool_call" and _continues(last.tool_call, delta.tool_call):
            last.tool_call.arguments += delta.tool_call.arguments
        else:
            return False
        last.token_ids.extend(delta.token_ids)
        last.logprobs.extend(delta.logprobs)
        return True


def _continues(last: pb.ToolCallDelta, new: pb.ToolCallDelta) -> bool:
    return not new.id and new.index == last.index and len(last.arguments) < _MAX_JOINED
