"""What all formats are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.tool_calls.forms import Dialect
from services.worker.tool_calls.interface import CallParser
from services.worker.tool_calls.names import ToolNames
from services.worker.tool_calls.parser import AnswerParser
from services.worker.tool_calls.shapes import CallShape


def _as_given(given: str, _name: str, _ordinal: int) -> str:
    return given


@dataclass(frozen=True)
class CallFormat:
    """A `Format`, put together from a dialect to read and a shape to write."""

    name: str
    dialect: Dialect
    shape: CallShape
    special_texts: frozenset[str] = frozenset()
    to_history_id: Callable[[str, str, int], str] = _as_given

    def parser(self, tools: Sequence[pb.Tool]) -> CallParser:
        """Makes the parser of one answer."""
        return AnswerParser(ToolNames(tools), self.dialect)

    def history_id(self, given: str, name: str, ordinal: int) -> str:
        """The id that the model knows a past call by; calls of a conversation are counted from 0."""
        return self.to_history_id(given, name, ordinal)
