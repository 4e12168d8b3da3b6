"""Cuts chat requests into tokens without a model: what stands in for a tokenizer keeps which prompts begin alike."""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from bench.client import Body

_PIECE: Final = re.compile(r" ?[A-Za-z]{1,6}|[0-9]{1,3}|\s+|.", re.DOTALL)
_ANSWER_BEGINS: Final = "<|im_start|>assistant\n"
_END: Final = "<|im_end|>\n"

Tokens = tuple[int, ...]


def prompt_tokens(body: Body) -> Tokens:
    """The tokens of a request, up to where its answer begins."""
    messages = sum((message_tokens(message) for message in body["messages"][_system_count(body) :]), ())
    return system_tokens(body) + messages + text_tokens(_ANSWER_BEGINS)


def system_tokens(body: Body) -> Tokens:
    """The tokens of system prompt and tools, with which every request of a conversation begins."""
    system = "".join(str(message["content"]) for message in body["messages"][: _system_count(body)])
    tools = "\n".join(json.dumps(tool) for tool in body.get("tools") or ())
    return text_tokens(f"<|im_start|>system\n{system}\n{tools}{_END}") if system or tools else ()


def answer_tokens(message: Mapping[str, Any]) -> Tokens:
    """The tokens of an answer, behind its prompt: the next prompt of the conversation begins with both."""
    return text_tokens(_content(message)) + text_tokens(_END)


def message_tokens(message: Mapping[str, Any]) -> Tokens:
    """The tokens of one message behind the system prompt."""
    if message["role"] == "assistant":
        return text_tokens(_ANSWER_BEGINS) + answer_tokens(message)
    return text_tokens(f"<|im_start|>{message['role']}\n{_content(message)}{_END}")


@cache
def text_tokens(text: str) -> Tokens:
    """Pieces of about four characters, each with a number of its own."""
    return tuple(map(_token, _PIECE.findall(text)))


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    calls: Sequence[Any] = message.get("tool_calls") or ()
    return text + "".join(f"<tool_call>\n{json.dumps(call['function'])}\n</tool_call>" for call in calls)


def _system_count(body: Body) -> int:
    roles = [message["role"] for message in body["messages"]]
    return next((index for index, role in enumerate(roles) if role != "system"), len(roles))


@cache
def _token(piece: str) -> int:
    return zlib.crc32(piece.encode()) & 0x7FFFFFFF
