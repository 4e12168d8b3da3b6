"""Translates a chat completion request to the contract. Pure."""

from typing import Any, Final

import orjson
from starlette.datastructures import Headers

from edge.auth import key_id
from edge.messages import to_messages
from edge.openai import ChatCompletionRequest, NamedToolChoice, Tool
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest

_MAX_TOKENS: Final = 2**31 - 1
_SEED_COUNT: Final = 2**32 - 1  # llama.cpp reads the highest 32-bit seed as "random"
_MAX_NAME_LENGTH: Final = 256
_TOOL_CHOICES: Final = {
    "auto": pb.TOOL_CHOICE_MODE_AUTO,
    "none": pb.TOOL_CHOICE_MODE_NONE,
    "required": pb.TOOL_CHOICE_MODE_REQUIRED,
}


def to_generate_requests(
    chat: ChatCompletionRequest, *, request_id: str, context: pb.RequestContext
) -> list[pb.GenerateRequest]:
    """Makes one generation for each choice; a given seed grows by one from choice to choice."""
    first = _to_generate_request(chat, request_id, context)
    requests = [first]
    for index in range(1, chat.n or 1):
        request = pb.GenerateRequest()
        request.CopyFrom(first)
        request.request_id = f"{request_id}-{index}"
        if first.sampling.HasField("seed"):
            request.sampling.seed = (first.sampling.seed + index) % _SEED_COUNT
        requests.append(request)
    return requests


def to_request_context(headers: Headers, chat: ChatCompletionRequest) -> pb.RequestContext:
    """Gathers who asks."""
    session_id = (
        headers.get("x-session-id")
        or chat.prompt_cache_key
        or chat.prompt_cache_key_camel
        or headers.get("session-id")
        or headers.get("x-claude-code-session-id")
        or ""
    )
    return pb.RequestContext(
        session_id=session_id[:_MAX_NAME_LENGTH],
        parent_session_id=headers.get("x-parent-session-id", "")[:_MAX_NAME_LENGTH],
        user_agent=headers.get("user-agent", "")[:_MAX_NAME_LENGTH],
        key_id=key_id(headers),
    )


def _to_generate_request(
    chat: ChatCompletionRequest, request_id: str, context: pb.RequestContext
) -> pb.GenerateRequest:
    max_tokens = chat.max_completion_tokens or chat.max_tokens
    return pb.GenerateRequest(
        request_id=request_id,
        model=chat.model or "",
        chat=_to_prompt(chat),
        sampling=_to_sampling(chat),
        max_tokens=None if max_tokens is None else min(max_tokens, _MAX_TOKENS),
        stop=_to_stop(chat.stop),
        response_format=_to_response_format(chat),
        top_logprobs=_to_top_logprobs(chat),
        context=context,
    )


def _to_prompt(chat: ChatCompletionRequest) -> pb.ChatPrompt:
    return pb.ChatPrompt(
        messages=to_messages(chat.messages),
        tools=[_to_tool(tool) for tool in chat.tools or ()],
        tool_choice=_to_tool_choice(chat),
        parallel_tool_calls=chat.parallel_tool_calls,
        template_kwargs_json=_compact(chat.chat_template_kwargs),
        reasoning_effort=chat.reasoning_effort or "",
    )


def _to_tool(tool: Tool) -> pb.Tool:
    function = tool.function
    return pb.Tool(
        name=function.name,
        description=function.description or "",
        parameters_json=_compact(function.parameters),
        strict=bool(function.strict),
    )


def _to_tool_choice(chat: ChatCompletionRequest) -> pb.ToolChoice | None:
    choice = chat.tool_choice
    if choice is None:
        return None
    if isinstance(choice, NamedToolChoice):
        name = choice.function.name
        if name not in {tool.function.name for tool in chat.tools or ()}:
            param = "tool_choice.function.name"
            raise InvalidRequest(f"Invalid value for '{param}': 'tools' has no function '{name}'.", param=param)
        return pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NAMED, name=name)
    if choice == "required" and not chat.tools:
        raise InvalidRequest("'tool_choice' is 'required', but 'tools' is empty.", param="tool_choice")
    return pb.ToolChoice(mode=_TOOL_CHOICES[choice])


def _to_sampling(chat: ChatCompletionRequest) -> pb.SamplingParams:
    return pb.SamplingParams(
        temperature=chat.temperature,
        top_p=chat.top_p,
        top_k=None if chat.top_k is None else max(chat.top_k, 0),
        min_p=chat.min_p,
        seed=None if chat.seed in (None, -1) else chat.seed % _SEED_COUNT,
        frequency_penalty=chat.frequency_penalty,
        presence_penalty=chat.presence_penalty,
        repeat_penalty=chat.repeat_penalty,
        logit_bias=_to_logit_bias(chat.logit_bias or {}),
    )


def _to_logit_bias(biases: dict[str, float]) -> dict[int, float]:
    translated = {}
    for token, bias in biases.items():
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            raise InvalidRequest(f"Invalid key '{token[:40]}' in 'logit_bias': must be a token id.", param="logit_bias")
        translated[int(token)] = bias
    return translated


def _to_stop(stop: str | list[str] | None) -> list[str]:
    texts = [stop] if isinstance(stop, str) else stop or []
    return [text for text in texts if text]


def _to_top_logprobs(chat: ChatCompletionRequest) -> int | None:
    if chat.logprobs:
        return chat.top_logprobs or 0
    if chat.top_logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    return None


def _to_response_format(chat: ChatCompletionRequest) -> pb.ResponseFormat | None:
    wanted = chat.response_format
    if chat.grammar:
        if wanted is not None and wanted.type != "text":
            raise InvalidRequest("'grammar' and 'response_format' exclude each other.", param="grammar")
        return pb.ResponseFormat(grammar=chat.grammar)
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        schema = wanted.schema_
        return pb.ResponseFormat(json_schema=_compact(schema)) if schema else pb.ResponseFormat(json_object=True)
    if wanted.json_schema is None:
        param = "response_format.json_schema"
        raise InvalidRequest(f"'{param}' is required.", param=param)
    return pb.ResponseFormat(json_schema=_compact(wanted.json_schema.schema_))


def _compact(value: dict[str, Any] | None) -> str:
    return "" if value is None else orjson.dumps(value).decode()
