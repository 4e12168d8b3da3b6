"""Past messages in the form that chat templates expect, which differs in details from template to template."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest

HistoryId = Callable[[str, str, int], str]
"""Turns a call's id, its tool's name and its place among all calls into the id that the model knows it by."""
_ROLES: Final[dict[pb.Role.ValueType, str]] = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
}
_ASKS_FOR_NO_CONTENT: Final = re.compile(r"content['\"\]]*\s+is\s+none")
_READS_THINKING: Final = re.compile(r"message(?:\.thinking|\[['\"]thinking['\"]\])")


class Arguments(dict[str, Any]):
    """A call's arguments: an object to templates that walk through them, JSON to those that write them out."""

    def __str__(self) -> str:
        return json.dumps(self, ensure_ascii=False)

    def __add__(self, text: str) -> str:
        return f"{self}{text}"

    def __radd__(self, text: str) -> str:
        return f"{text}{self}"


def as_given(given: str, _name: str, _ordinal: int) -> str:
    """Leaves ids as clients know them."""
    return given


class History:
    """Prepares messages for one template."""

    def __init__(self, template_source: str, history_id: HistoryId) -> None:
        self._history_id = history_id
        # DeepSeek's templates render calls only of messages whose content is none.
        self._has_no_empty_content = _ASKS_FOR_NO_CONTENT.search(template_source) is not None
        # gpt-oss: https://huggingface.co/openai/gpt-oss-20b/blob/main/chat_template.jinja
        self._reads_thinking = _READS_THINKING.search(template_source) is not None

    def messages(self, messages: Iterable[pb.Message]) -> list[dict[str, Any]]:
        """The messages of a conversation; ids of calls are what the model wrote or its template takes."""
        ids: dict[str, str] = {}
        prepared = []
        call_count = 0
        for message in messages:
            for call in message.tool_calls:
                ids[call.id] = self._history_id(call.id, call.name, call_count)
                call_count += 1
            prepared.append(self._message(message, ids))
        return prepared

    def _message(self, message: pb.Message, ids: dict[str, str]) -> dict[str, Any]:
        fields: dict[str, Any] = {"role": _role(message.role), "content": _content(message)}
        if message.reasoning_content:
            fields["reasoning_content"] = message.reasoning_content
            # gpt-oss's template refuses a call with both.
            if self._reads_thinking and not (message.tool_calls and fields["content"]):
                fields["thinking"] = message.reasoning_content
        if message.tool_calls:
            fields["tool_calls"] = [_tool_call(call, ids[call.id]) for call in message.tool_calls]
            if self._has_no_empty_content and not fields["content"]:
                fields["content"] = None
        if message.tool_call_id:
            fields["tool_call_id"] = ids.get(message.tool_call_id, message.tool_call_id)
        if message.name:
            fields["name"] = message.name
        return fields


def _role(role: pb.Role.ValueType) -> str:
    if role not in _ROLES:
        raise InvalidRequest("A message has no valid role.", param="messages")
    return _ROLES[role]


def _content(message: pb.Message) -> str:
    """Joins the parts of a message: many templates can't read a list of them."""
    if any(part.WhichOneof("part") == "image" for part in message.content):
        raise InvalidRequest("This model can't read images.", param="messages")
    return "\n".join(part.text for part in message.content)


def _tool_call(call: pb.ToolCall, call_id: str) -> dict[str, Any]:
    # Clients change the white space of arguments; parsed, they are rendered again as the model wrote them.
    arguments = parsed(call.arguments_json) if call.arguments_json else {}
    if isinstance(arguments, dict):
        arguments = Arguments(arguments)
    return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def parsed(text: str) -> Any:
    """Parses JSON; text that is none stays as it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
