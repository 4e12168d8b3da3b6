"""Requests recorded from real clients, as the router gets to see them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.datastructures import Headers

from edge.translate import to_generate_requests, to_request_context
from edge.validation import parse_chat_completion_request
from localcode.inference.v1 import inference_pb2 as pb

_DIRECTORY: Final = Path(__file__).parents[1] / "unit/recorded"


@dataclass(frozen=True)
class Recorded:
    """One request of a client."""

    client: str
    name: str
    request_class: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    def generate_request(self) -> pb.GenerateRequest:
        """The request behind the edge."""
        chat = parse_chat_completion_request(self.chat_body())
        context = to_request_context(Headers(self.headers), chat)
        return to_generate_requests(chat, request_id="req", context=context)[0]

    def chat_body(self) -> dict[str, Any]:
        """The body as a chat completion request."""
        if self.path == "/v1/messages":
            return _chat_of_messages(self.body)
        return _chat_of_responses(self.body) if self.path == "/v1/responses" else self.body


def recorded_requests() -> Iterator[Recorded]:
    """All of them, by client."""
    for file in sorted(_DIRECTORY.glob("*.json")):
        document = json.loads(file.read_text())
        for one in document["requests"]:
            yield Recorded(
                document["client"], one["name"], one["class"], one["path"], one["headers"], one["body"]
            )  # fmt: skip


def _chat_of_messages(body: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "system", "content": [_text(block) for block in body["system"]]}]
    for message in body["messages"]:
        messages += _split(message)
    return {"model": body["model"], "messages": messages, "tools": [_tool(tool["name"]) for tool in body["tools"]]}


def _split(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Results of tools are messages of their own in a chat, calls a field."""
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for block in blocks:
        if block["type"] == "tool_result":
            yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": [*map(_text, block["content"])]}
    texts = [_text(block) for block in blocks if block["type"] == "text"]
    calls = [_call(block["id"], block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
    if texts or calls:
        yield {"role": message["role"], "content": texts} | ({"tool_calls": calls} if calls else {})


def _chat_of_responses(body: dict[str, Any]) -> dict[str, Any]:
    tools = [
        _tool(function["name"]) for tool in body["tools"] for function in tool.get("tools", [tool])
        if function["type"] == "function"
    ]  # fmt: skip
    chat = {"model": body["model"], "messages": [_message(item) for item in body["input"]], "tools": tools}
    return chat | {"prompt_cache_key": body["prompt_cache_key"]}


def _message(item: dict[str, Any]) -> dict[str, Any]:
    match item["type"]:
        case "function_call":
            call = _call(item["call_id"], item["name"], json.loads(item["arguments"]))
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case "function_call_output":
            return {"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]}
    return {"role": item["role"], "content": [*map(_text, item["content"])]}


def _text(block: dict[str, Any]) -> dict[str, str]:
    return {"type": "text", "text": block["text"]}


def _tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _call(call_id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
