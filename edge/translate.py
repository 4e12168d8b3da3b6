"""Translates a chat completion request to the contract. Pure."""

from typing import Final

from starlette.datastructures import Headers

from edge.auth import key_id
from edge.messages import to_messages
from edge.openai import ChatCompletionRequest, NamedToolChoice, Speculative, Tool
from edge.sampling import SEED_COUNT, compact, to_response_format, to_sampling
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest

_MAX_TOKENS: Final = 2**31 - 1
_MAX_NAME_LENGTH: Final = 256
_TOOL_CHOICES: Final = {
    "auto": pb.TOOL_CHOICE_MODE_AUTO,
    "none": pb.TOOL_CHOICE_MODE_NONE,
    "required": pb.TOOL_CHOICE_MODE_REQUIRED,
}

_SPECULATION_KINDS: Final = {
    None: pb.SPECULATION_KIND_UNSPECIFIED,
    "auto": pb.SPECULATION_KIND_AUTO,
    "none": pb.SPECULATION_KIND_NONE,
    "lookup": pb.SPECULATION_KIND_LOOKUP,
    "draft": pb.SPECULATION_KIND_DRAFT,
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
            request.sampling.seed = (first.sampling.seed + index) % SEED_COUNT
        requests.append(request)
    return requests


def to_request_context(headers: Headers, chat: ChatCompletionRequest) -> pb.RequestContext:
    """Gathers who asks. What a client calls an agent or a thread is a session of its own here."""
    agent_id = headers.get("x-claude-code-agent-id", "")
    parent_session_id = (
        headers.get("x-parent-session-id")
        or headers.get("x-codex-parent-thread-id")
        or (agent_id and headers.get("x-claude-code-session-id"))
        or ""
    )
    session_id = (
        headers.get("x-session-id")
        or headers.get("thread-id")
        or chat.prompt_cache_key
        or chat.prompt_cache_key_camel
        or headers.get("session-id")
        or agent_id
        or headers.get("x-claude-code-session-id")
        or ""
    )
    return pb.RequestContext(
        session_id=session_id[:_MAX_NAME_LENGTH],
        parent_session_id=parent_session_id[:_MAX_NAME_LENGTH],
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
        sampling=to_sampling(chat),
        max_tokens=None if max_tokens is None else min(max_tokens, _MAX_TOKENS),
        stop=_to_stop(chat.stop),
        response_format=to_response_format(chat),
        top_logprobs=_to_top_logprobs(chat),
        context=context,
        speculation=_to_speculation(chat.speculative),
    )


def _to_speculation(wanted: Speculative | None) -> pb.Speculation | None:
    if wanted is None:
        return None
    return pb.Speculation(kind=_SPECULATION_KINDS[wanted.kind], max_tokens=wanted.max_tokens)


def _to_prompt(chat: ChatCompletionRequest) -> pb.ChatPrompt:
    return pb.ChatPrompt(
        messages=to_messages(chat.messages),
        tools=[_to_tool(tool) for tool in chat.tools or ()],
        tool_choice=_to_tool_choice(chat),
        parallel_tool_calls=chat.parallel_tool_calls,
        template_kwargs_json=compact(chat.chat_template_kwargs),
        reasoning_effort=chat.reasoning_effort or "",
    )


def _to_tool(tool: Tool) -> pb.Tool:
    function = tool.function
    return pb.Tool(
        name=function.name,
        description=function.description or "",
        parameters_json=compact(function.parameters),
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


def _to_stop(stop: str | list[str] | None) -> list[str]:
    texts = [stop] if isinstance(stop, str) else stop or []
    return [text for text in texts if text]


def _to_top_logprobs(chat: ChatCompletionRequest) -> int | None:
    if chat.logprobs:
        return chat.top_logprobs or 0
    if chat.top_logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    return None
