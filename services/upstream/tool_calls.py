"""Repairs the tool calls that remotes stream: distinct indexes, ids and arguments as text, whatever arrives."""

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import BackendFailed
from services.upstream.surrogates import CharacterJoiner


@dataclass
class _Call:
    index: int
    remote_index: int | None
    remote_id: str
    id: str
    name: str = ""
    arguments: str = ""
    is_announced: bool = False
    joiner: CharacterJoiner = field(default_factory=CharacterJoiner)

    @property
    def has_complete_arguments(self) -> bool:
        try:
            return isinstance(json.loads(self.arguments), dict)
        except ValueError:
            return False

    def delta(self, arguments: str) -> list[pb.ToolCallDelta]:
        """Says the next arguments, with id and name in front once; nothing before the name is known."""
        self.arguments += arguments
        if self.is_announced:
            return [pb.ToolCallDelta(index=self.index, arguments=arguments)] if arguments else []
        if not self.name:
            return []
        self.is_announced = True
        return [pb.ToolCallDelta(index=self.index, id=self.id, name=self.name, arguments=self.arguments)]


class ToolCallReader:
    """Tells apart the calls of one answer and passes their pieces on."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    @property
    def has_calls(self) -> bool:
        """Whether any call has begun."""
        return bool(self._calls)

    def read(self, piece: dict[str, Any]) -> list[pb.ToolCallDelta]:
        """Takes one element of `delta.tool_calls`."""
        function = piece.get("function") or {}
        name = function.get("name") or ""
        call = self._find(piece.get("index"), piece.get("id") or "", name) or self._begin(piece)
        call.name = call.name or name
        return call.delta(call.joiner.feed(_text(function.get("arguments"))))

    def close(self, *, is_whole: bool) -> list[pb.ToolCallDelta]:
        """Ends all calls; in a whole answer a call without arguments gets an empty object."""
        deltas: list[pb.ToolCallDelta] = []
        for call in self._calls:
            if not call.name:
                raise BackendFailed("The upstream called a function without naming it.")
            missing = "{}" if is_whole and not call.arguments.strip() else ""
            deltas += call.delta(call.joiner.close() + missing)
        return deltas

    def _find(self, index: int | None, remote_id: str, name: str) -> _Call | None:
        """Finds the call that a piece continues. An id decides; without one, the index or the latest call."""
        if remote_id and (
            same := [c for c in self._calls if c.remote_id == remote_id and index in (None, c.remote_index)]
        ):
            return same[-1]
        candidates = [c for c in self._calls if index in (None, c.remote_index)]
        if not candidates or (name and _begins_another(candidates[-1], remote_id, name)):
            return None
        return candidates[-1]

    def _begin(self, piece: dict[str, Any]) -> _Call:
        remote_id = piece.get("id") or ""
        is_usable = remote_id and all(call.id != remote_id for call in self._calls)
        call_id = remote_id if is_usable else f"call_{uuid.uuid4().hex[:24]}"
        call = _Call(len(self._calls), piece.get("index"), remote_id, call_id)
        self._calls.append(call)
        return call


def _begins_another(latest: _Call, remote_id: str, name: str) -> bool:
    """Decides about a piece with a name: some remotes repeat the name in each piece of one call."""
    if not latest.name:
        return False
    if remote_id and latest.remote_id:  # the ids differ, or the piece would have been found by its id
        return True
    return name != latest.name or latest.has_complete_arguments


def _text(arguments: object) -> str:
    if arguments is None:
        return ""
    if isinstance(arguments, str):
        return arguments
    if isinstance(arguments, dict):
        return json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    raise BackendFailed("The upstream sent tool arguments that are neither text nor an object.")
