"""How long prompts are, without a tokenizer. Pure."""

from itertools import accumulate, takewhile
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb

_MESSAGE_CHARACTERS: Final = 20  # what a chat template writes around each message
_IMAGE_CHARACTERS: Final = 3000


def prefix_sizes(request: pb.GenerateRequest) -> tuple[int, ...]:
    """Characters of a prompt up to each of its lineage hashes (`services/shared/lineage.py`), at least one number."""
    if not request.HasField("chat"):
        return (len(request.text),)
    chat = request.chat
    root = sum(len(tool.name) + len(tool.description) + len(tool.parameters_json) for tool in chat.tools)
    leading = list(takewhile(lambda message: message.role == pb.ROLE_SYSTEM, chat.messages))
    root += sum(map(_size, leading))
    return tuple(accumulate(map(_size, chat.messages[len(leading) :]), initial=root))


def _size(message: pb.Message) -> int:
    content = sum(len(part.text) or _IMAGE_CHARACTERS for part in message.content)
    calls = sum(len(call.name) + len(call.arguments_json) for call in message.tool_calls)
    return _MESSAGE_CHARACTERS + content + calls + len(message.reasoning_content)
