"""Lineage hashes: which conversation a request continues, known without a tokenizer."""

import json
from collections.abc import Iterator
from hashlib import sha256

from localcode.inference.v1 import inference_pb2 as pb


def lineage(model: str, chat: pb.ChatPrompt) -> list[bytes]:
    """Hashes a conversation message by message, chained: equal hashes mean equal beginnings.

    `g[0] = sha256(model, tools, system messages)`, `g[i] = sha256(g[i-1] || message i)`, each 32 bytes.
    """
    system_count = _leading_system_count(chat)
    root = sha256(_canonical([model, [_tool(tool) for tool in chat.tools]]))
    for message in chat.messages[:system_count]:
        root.update(_message_bytes(message))
    hashes = [root.digest()]
    hashes.extend(_chain(hashes[0], chat.messages[system_count:]))
    return hashes


def _chain(parent: bytes, messages: "Iterator[pb.Message] | list[pb.Message]") -> Iterator[bytes]:
    for message in messages:
        parent = sha256(parent + _message_bytes(message)).digest()
        yield parent


def _leading_system_count(chat: pb.ChatPrompt) -> int:
    count = 0
    while count < len(chat.messages) and chat.messages[count].role == pb.ROLE_SYSTEM:
        count += 1
    return count


def _tool(tool: pb.Tool) -> list[object]:
    return [tool.name, tool.description, _parsed(tool.parameters_json)]


def _message_bytes(message: pb.Message) -> bytes:
    calls = [[call.name, _parsed(call.arguments_json)] for call in message.tool_calls]
    parts = [sha256(part.image.data).hexdigest() if part.HasField("image") else part.text for part in message.content]
    return _canonical([message.role, parts, calls, message.tool_call_id])


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _parsed(text: str) -> object:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
