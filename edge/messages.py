"""Translates the messages of a chat to the contract. Pure."""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final

import orjson

from edge.openai import ContentPart, Message, ToolCall
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest

_ROLES: Final = {
    "system": pb.ROLE_SYSTEM,
    "developer": pb.ROLE_SYSTEM,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
    "tool": pb.ROLE_TOOL,
}
_DATA_URL: Final = re.compile(r"data:(?P<type>image/[\w.+-]+)(?:;[\w.=+-]+)*;base64,(?P<data>.*)", re.DOTALL)


def to_messages(messages: Sequence[Message]) -> list[pb.Message]:
    """Translates messages; every tool message must answer a call made before it."""
    known_call_ids: set[str] = set()
    translated = []
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        _check(message, path, known_call_ids)
        known_call_ids.update(call.id for call in message.tool_calls or ())
        translated.append(_to_message(message, path))
    return translated


def _check(message: Message, path: str, known_call_ids: set[str]) -> None:
    if message.content is None and message.role != "assistant":
        raise InvalidRequest(f"'{path}.content' is required.", param=f"{path}.content")
    if message.tool_calls and message.role != "assistant":
        raise InvalidRequest(f"'{path}.tool_calls' belongs to the assistant only.", param=f"{path}.tool_calls")
    if message.role == "tool" and message.tool_call_id not in known_call_ids:
        named = f"'{message.tool_call_id[:100]}' names no" if message.tool_call_id else "a tool message must name a"
        raise InvalidRequest(
            f"Invalid value for '{path}.tool_call_id': {named} call of an assistant message before it.",
            param=f"{path}.tool_call_id",
        )


def _to_message(message: Message, path: str) -> pb.Message:
    return pb.Message(
        role=_ROLES[message.role],
        content=_to_content(message.content, f"{path}.content"),
        tool_calls=[_to_tool_call(call) for call in message.tool_calls or ()],
        tool_call_id=message.tool_call_id or "",
        reasoning_content=message.reasoning_content or message.reasoning or "",
        name=message.name or "",
    )


def _to_content(content: str | list[ContentPart] | None, path: str) -> list[pb.ContentPart]:
    if isinstance(content, str):
        return [pb.ContentPart(text=content)] if content else []
    return [_to_part(part, f"{path}[{index}]") for index, part in enumerate(content or ())]


def _to_part(part: ContentPart, path: str) -> pb.ContentPart:
    if part.type == "image_url":
        return pb.ContentPart(image=_to_image(part, path))
    text = part.text if part.type == "text" else part.refusal
    if text is None:
        raise InvalidRequest(f"'{path}.{part.type}' is required.", param=f"{path}.{part.type}")
    return pb.ContentPart(text=text)


def _to_image(part: ContentPart, path: str) -> pb.Image:
    if part.image_url is None:
        raise InvalidRequest(f"'{path}.image_url' is required.", param=f"{path}.image_url")
    url, param = (
        (part.image_url, f"{path}.image_url")
        if isinstance(part.image_url, str)
        else (part.image_url.url, f"{path}.image_url.url")
    )
    match = _DATA_URL.fullmatch(url)
    if match is None:
        raise InvalidRequest(
            f"'{param}' must be a data URL such as `data:image/png;base64,...`; this server fetches nothing.",
            param=param,
        )
    try:
        data = base64.b64decode(match["data"], validate=True)
    except binascii.Error as error:
        raise InvalidRequest(f"'{param}' is not valid base64.", param=param) from error
    return pb.Image(data=data, media_type=match["type"])


def _to_tool_call(call: ToolCall) -> pb.ToolCall:
    arguments = call.function.arguments
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
    return pb.ToolCall(id=call.id, name=call.function.name, arguments_json=text or "{}")
