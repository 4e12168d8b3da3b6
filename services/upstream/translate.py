"""Turns a generation request into the body of a chat completion request. Pure."""

import base64
import json
import math
from typing import Any, Final

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest, ModelNotFound, Unsupported
from services.upstream.settings import UpstreamSettings

_ROLES: Final = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
}
_FLOATS: Final = (
    "temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "typical_p", "top_n_sigma",
    "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base", "mirostat_tau", "mirostat_eta", "dynatemp_range",
    "dynatemp_exponent", "adaptive_target", "adaptive_decay",
)  # fmt: skip
_INTEGERS: Final = (
    "top_k", "seed", "repeat_last_n", "dry_allowed_length", "dry_penalty_last_n", "mirostat", "min_keep",
)  # fmt: skip
_SAMPLERS: Final = {
    pb.SAMPLER_PENALTIES: "penalties",
    pb.SAMPLER_DRY: "dry",
    pb.SAMPLER_TOP_N_SIGMA: "top_n_sigma",
    pb.SAMPLER_TOP_K: "top_k",
    pb.SAMPLER_TYPICAL_P: "typ_p",
    pb.SAMPLER_TOP_P: "top_p",
    pb.SAMPLER_MIN_P: "min_p",
    pb.SAMPLER_XTC: "xtc",
    pb.SAMPLER_TEMPERATURE: "temperature",
    pb.SAMPLER_INFILL: "infill",
    pb.SAMPLER_ADAPTIVE_P: "adaptive_p",
}


def to_body(request: pb.GenerateRequest, settings: UpstreamSettings) -> dict[str, Any]:
    """Says the request in OpenAI's terms, always as a stream with usage."""
    _check(request, settings)
    body: dict[str, Any] = {**settings.extra_body, "model": settings.remote_model}
    body["messages"] = [_message(message, settings) for message in request.chat.messages]
    body |= _tools(request.chat) | _thinking(request.chat) | _sampling(request.sampling) | _format(request)
    if limit := token_limit(request, settings):
        body["max_tokens"] = limit
    if request.stop:
        body["stop"] = list(request.stop)
    if request.HasField("top_logprobs"):
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    return body | {"stream": True, "stream_options": {"include_usage": True}}


def token_limit(request: pb.GenerateRequest, settings: UpstreamSettings) -> int:
    """Most tokens to ask for; 0 leaves it to the remote."""
    if not request.HasField("max_tokens"):
        return settings.max_output_tokens or 0
    return min(request.max_tokens, settings.max_output_tokens or settings.context_length)


def _check(request: pb.GenerateRequest, settings: UpstreamSettings) -> None:
    if request.model and request.model not in (settings.name, *settings.aliases):
        raise ModelNotFound(f"This upstream serves {settings.name}, not {request.model}.", param="model")
    if request.WhichOneof("prompt") == "text":
        raise Unsupported(f"{settings.name} is remote and completes conversations only, no raw text.", param="prompt")
    if not request.chat.messages:
        raise InvalidRequest("messages must hold at least one message.", param="messages")
    if request.HasField("max_tokens") and not request.max_tokens:
        raise InvalidRequest("max_tokens must be at least 1.", param="max_tokens")
    if request.resume_tokens:
        raise Unsupported(f"{settings.name} is remote and can't continue an answer that another worker began.")


def _message(message: pb.Message, settings: UpstreamSettings) -> dict[str, Any]:
    if message.role not in _ROLES:
        raise InvalidRequest("Each message needs a role.", param="messages")
    said: dict[str, Any] = {"role": _ROLES[message.role], "content": _content(message, settings)}
    if message.tool_calls:
        said["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    for name in ("tool_call_id", "reasoning_content", "name"):
        if value := getattr(message, name):
            said[name] = value
    return said


def _content(message: pb.Message, settings: UpstreamSettings) -> str | list[dict[str, Any]]:
    if len(message.content) <= 1 and not any(part.HasField("image") for part in message.content):
        return "".join(part.text for part in message.content)
    return [_part(part, settings) for part in message.content]


def _part(part: pb.ContentPart, settings: UpstreamSettings) -> dict[str, Any]:
    if not part.HasField("image"):
        return {"type": "text", "text": part.text}
    if not settings.vision:
        raise InvalidRequest(f"{settings.name} does not see images.", param="messages")
    data = base64.b64encode(part.image.data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{part.image.media_type};base64,{data}"}}


def _tool_call(call: pb.ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments_json or "{}"}
    return {"id": call.id, "type": "function", "function": function}


def _tools(chat: pb.ChatPrompt) -> dict[str, Any]:
    if not chat.tools:
        return {}
    fields: dict[str, Any] = {"tools": [_tool(tool) for tool in chat.tools]}
    if chat.tool_choice.mode:
        fields["tool_choice"] = _tool_choice(chat.tool_choice)
    if chat.HasField("parallel_tool_calls"):
        fields["parallel_tool_calls"] = chat.parallel_tool_calls
    return fields


def _tool(tool: pb.Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = _parsed(tool.parameters_json or '{"type":"object","properties":{}}', "tools")
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _tool_choice(choice: pb.ToolChoice) -> object:
    if choice.mode == pb.TOOL_CHOICE_MODE_NAMED:
        return {"type": "function", "function": {"name": choice.name}}
    return {pb.TOOL_CHOICE_MODE_NONE: "none", pb.TOOL_CHOICE_MODE_REQUIRED: "required"}.get(choice.mode, "auto")


def _thinking(chat: pb.ChatPrompt) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if chat.reasoning_effort:
        fields["reasoning_effort"] = chat.reasoning_effort
    if chat.template_kwargs_json:
        fields["chat_template_kwargs"] = _parsed(chat.template_kwargs_json, "chat_template_kwargs")
    return fields


def _sampling(sampling: pb.SamplingParams) -> dict[str, Any]:
    fields: dict[str, Any] = {name: _decimal(getattr(sampling, name)) for name in _FLOATS if sampling.HasField(name)}
    fields |= {name: getattr(sampling, name) for name in _INTEGERS if sampling.HasField(name)}
    if sampling.HasField("repeat_penalty"):  # llama.cpp's name and the one of the others
        fields |= dict.fromkeys(("repeat_penalty", "repetition_penalty"), _decimal(sampling.repeat_penalty))
    if sampling.dry_sequence_breakers:
        fields["dry_sequence_breakers"] = list(sampling.dry_sequence_breakers)
    if sampling.samplers:
        fields["samplers"] = [_SAMPLERS[sampler] for sampler in sampling.samplers]
    if sampling.ignore_eos:
        fields["ignore_eos"] = True
    if sampling.text_bias or any(math.isinf(bias) for bias in sampling.logit_bias.values()):
        raise Unsupported("Biases of texts, and false as a bias, work with local models only.", param="logit_bias")
    if sampling.logit_bias:
        fields["logit_bias"] = {str(token): _decimal(bias) for token, bias in sampling.logit_bias.items()}
    return fields


def _format(request: pb.GenerateRequest) -> dict[str, Any]:
    wanted = request.response_format
    match wanted.WhichOneof("format"):
        case "json_schema":
            schema = _parsed(wanted.json_schema, "response_format")
            document = {"name": "answer", "schema": schema, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": document}}
        case "json_object" if wanted.json_object:
            return {"response_format": {"type": "json_object"}}
        case "regex":
            raise Unsupported("Regular expressions work with local models only.", param="response_format")
        case "grammar":
            raise Unsupported("Grammars work with local models only.", param="grammar")
    return {}


def _parsed(text: str, param: str) -> Any:
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)  # `NaN` is read, but is no JSON
        return value
    except ValueError as error:
        raise InvalidRequest(f"{param} holds text that is not JSON: {error}", param=param) from error


def _decimal(value: float) -> float:
    """Undoes the widening of a 32-bit float: 0.7 stays 0.7."""
    return float(f"{value:.7g}")
