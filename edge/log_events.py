"""What is logged of a conversation, as plain events. Pure; `content` says how much of the texts is in them."""

from collections import Counter
from typing import Any, Final, Literal

from edge.answer import Answer
from edge.choice import Call, Choice
from edge.errors import ApiError
from localcode.inference.v1 import inference_pb2 as pb

Content = Literal["none", "preview", "full"]
Fields = dict[str, Any]
PREVIEW_LENGTH: Final = 150
_ROLES: Final = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
}
_CHOICES: Final = {
    pb.TOOL_CHOICE_MODE_UNSPECIFIED: "auto",
    pb.TOOL_CHOICE_MODE_AUTO: "auto",
    pb.TOOL_CHOICE_MODE_NONE: "none",
    pb.TOOL_CHOICE_MODE_REQUIRED: "required",
}


def shown(text: str, content: Content) -> str | None:
    """Cuts a text to what may be shown of it."""
    if content == "none":
        return None
    if content == "full":
        return text
    line = " ".join(text[: 4 * PREVIEW_LENGTH].split())
    return line if len(line) <= PREVIEW_LENGTH else line[: PREVIEW_LENGTH - 1] + "…"


def request_event(request: pb.GenerateRequest, content: Content, *, is_stream: bool, choice_count: int) -> Fields:
    """A request has come in."""
    chat = request.chat
    roles = Counter(_ROLES[message.role] for message in chat.messages)
    fields: Fields = {
        "event": "chat_request",
        "request_id": request.request_id,
        "model": request.model,
        "stream": is_stream,
        "n": choice_count,
        "message_count": len(chat.messages),
        "roles": dict(roles),
        "tools": [tool.name for tool in chat.tools],
        "tool_choice": chat.tool_choice.name or _CHOICES[chat.tool_choice.mode],
        "session_id": request.context.session_id,
        "max_tokens": request.max_tokens if request.HasField("max_tokens") else None,
    }
    if content != "none":
        fields["messages"] = [_message(message, content) for message in chat.messages]
    return fields


def chunk_event(request_id: str, index: int, event: pb.GenerateResponse, content: Content) -> Fields:
    """A piece of an answer has come."""
    kind = event.WhichOneof("event") or "nothing"
    fields: Fields = {"event": "chunk", "request_id": request_id, "index": index, "kind": kind}
    if kind == "delta":
        piece = event.delta.WhichOneof("piece") or "nothing"
        text = event.delta.tool_call.arguments if piece == "tool_call" else getattr(event.delta, piece, "")
        fields |= {"kind": piece, "text": shown(text, content)}
    return fields


def tool_call_event(request_id: str, call: Call) -> Fields:
    """The model has begun to call a function."""
    return {"event": "tool_call", "request_id": request_id, "name": call.name, "id": call.id}


def tool_call_complete_event(request_id: str, call: Call, content: Content) -> Fields:
    """A call has all its arguments."""
    return {
        "event": "tool_call_complete",
        "request_id": request_id,
        "name": call.name,
        "id": call.id,
        "arguments": shown("".join(call.arguments), content),
    }


def response_event(
    request_id: str, answer: Answer, content: Content, *, first_token_seconds: float | None, seconds: float
) -> Fields:
    """An answer is complete."""
    usage = answer.usage()
    return {
        "event": "chat_response",
        "request_id": request_id,
        "model": answer.model,
        "worker_id": next((choice.admitted.worker_id for choice in answer.choices if choice.admitted), ""),
        "choices": [_choice(choice, content) for choice in answer.choices],
        "prompt_tokens": usage["prompt_tokens"],
        "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
        "first_token_seconds": None if first_token_seconds is None else round(first_token_seconds, 3),
        "seconds": round(seconds, 3),
    }


def failure_event(request_id: str, error: ApiError) -> Fields:
    """A request was refused, or its answer broke off."""
    return {
        "event": "chat_failed",
        "request_id": request_id,
        "status": error.status,
        "code": error.code,
        "param": error.param,
        "message": error.message,
    }


def disconnect_event(request_id: str, seconds: float) -> Fields:
    """The client has gone before the end."""
    return {"event": "client_disconnected", "request_id": request_id, "seconds": round(seconds, 3)}


def _message(message: pb.Message, content: Content) -> Fields:
    fields: Fields = {
        "role": _ROLES[message.role],
        "content": shown(" ".join(_part(part) for part in message.content), content),
    }
    if message.tool_calls:
        fields["tool_calls"] = [
            {"name": call.name, "arguments": shown(call.arguments_json, content)} for call in message.tool_calls
        ]
    return fields


def _part(part: pb.ContentPart) -> str:
    if part.HasField("image"):
        return f"[{part.image.media_type}, {len(part.image.data)} bytes]"
    return part.text


def _choice(choice: Choice, content: Content) -> Fields:
    fields: Fields = {
        "finish_reason": choice.finish_reason,
        "tool_calls": [call.name for call in choice.calls.values()],
    }
    if content != "none":
        fields["content"] = shown("".join(choice.content), content)
        fields["reasoning"] = shown("".join(choice.reasoning), content)
    return fields
