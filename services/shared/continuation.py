"""What of an answer has arrived, so that another process can go on with it and nothing is said twice or lost.

Whoever continues an answer (`GenerateRequest.resume_tokens`) says it again from its first character: a process that
died may have sent a part of what a token brought. The receiver drops what it has.
"""

from collections import Counter
from collections.abc import Hashable
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb

_TOKENS: Final = "tokens"


class Delivered:
    """Follows one answer over all the calls that bring it."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self._had: Counter[Hashable] = Counter()
        """Characters of each channel that were passed on: `content`, `reasoning`, and calls by their index."""
        self._seen: Counter[Hashable] = Counter()
        self._is_repeating = False

    @property
    def has_text(self) -> bool:
        """Whether any part of the answer was passed on."""
        return bool(self._had)

    @property
    def can_resume(self) -> bool:
        """Whether the tokens behind all that was passed on are known; remote backends don't tell theirs."""
        return bool(self.token_ids) or not self.has_text

    def restart(self) -> None:
        """Says that a new call begins to bring the answer, from its start."""
        self._seen = Counter()
        self._is_repeating = self.has_text or bool(self.token_ids)

    def take(self, delta: pb.Delta) -> pb.Delta | None:
        """Takes the next delta of the current call and returns what is new of it, if anything is."""
        channel, length = _measure(delta)
        if not self._is_repeating:
            self.token_ids.extend(delta.token_ids)
            self._had[channel] += length
            return delta
        new_tokens = self._new_tokens(delta)
        skipped = self._skip(channel, length)
        is_known = channel in self._had
        self._had[channel] = max(self._had[channel], self._seen[channel])
        self._is_repeating = self._seen[_TOKENS] < len(self.token_ids) or any(
            self._seen[name] < count for name, count in self._had.items()
        )
        if skipped >= length and is_known and not new_tokens:
            return None
        return _cut(delta, skipped, new_tokens, is_known=is_known)

    def _new_tokens(self, delta: pb.Delta) -> list[int]:
        new = list(delta.token_ids[self._skip(_TOKENS, len(delta.token_ids), len(self.token_ids)) :])
        self.token_ids.extend(new)
        return new

    def _skip(self, channel: Hashable, length: int, had: int | None = None) -> int:
        """Counts how much of a piece the receiver has, and moves on behind it."""
        start = self._seen[channel]
        self._seen[channel] = start + length
        return min(max((self._had[channel] if had is None else had) - start, 0), length)


def _measure(delta: pb.Delta) -> tuple[Hashable, int]:
    match delta.WhichOneof("piece"):
        case "reasoning":
            return "reasoning", len(delta.reasoning)
        case "tool_call":
            return delta.tool_call.index, len(delta.tool_call.arguments)
        case _:
            return "content", len(delta.content)


def _cut(delta: pb.Delta, skipped: int, token_ids: list[int], *, is_known: bool) -> pb.Delta:
    new = pb.Delta(token_ids=token_ids, logprobs=delta.logprobs)
    match delta.WhichOneof("piece"):
        case "reasoning":
            new.reasoning = delta.reasoning[skipped:]
        case "tool_call":
            call = delta.tool_call
            new.tool_call.CopyFrom(pb.ToolCallDelta(index=call.index, arguments=call.arguments[skipped:]))
            if not is_known:
                new.tool_call.id, new.tool_call.name = call.id, call.name
        case _:
            new.content = delta.content[skipped:]
    return new
