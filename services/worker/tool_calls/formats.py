"""Which format a model's calls have, told from its chat template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.tool_calls.events import CallParser, Format
from services.worker.tool_calls.json_parser import JsonCallParser
from services.worker.tool_calls.names import ToolNames
from services.worker.tool_calls.tags import CALL_TAGS, Tags


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """Calls as JSON objects; behind a native tag a call follows without further evidence."""

    name: str
    tags: Tags

    def parser(self, tools: Sequence[pb.Tool]) -> CallParser:
        """Makes the parser of one answer."""
        return JsonCallParser(ToolNames(tools), self.tags)


GENERIC: Final = JsonFormat("generic", Tags(native=CALL_TAGS))
HERMES: Final = JsonFormat("hermes", Tags(native=("<tool_call>",)))
LLAMA: Final = JsonFormat("llama", Tags(native=("<|python_tag|>",)))
MISTRAL: Final = JsonFormat("mistral", Tags(native=("[TOOL_CALLS]",)))
_MARKERS: Final = (("<tool_call>", HERMES), ("<|python_tag|>", LLAMA), ("[TOOL_CALLS]", MISTRAL))


def pick_format(template_source: str) -> Format:
    """Picks the format that a chat template teaches its model; the generic one if none is recognised.

    All of them read code blocks and bare objects too: small models fall back to those whatever their template says.
    """
    return next((found for marker, found in _MARKERS if marker in template_source), GENERIC)
