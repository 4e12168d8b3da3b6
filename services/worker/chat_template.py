"""Conversations rendered to the prompt text that a model was trained on."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from jinja2 import TemplateError

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest
from services.worker.prompt_segments import ProtectedText, Segment
from services.worker.replay import Spoken, fits_frame
from services.worker.template_sandbox import TemplateEnvironment, TemplateRefusalError, bounded_range

# For models that come without a template of their own.
CHATML: Final = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ROLES: Final[dict[pb.Role.ValueType, str]] = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
}
_RESERVED: Final = frozenset({
    "messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "range", "raise_exception", "strftime_now",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A prompt, cut where text must be tokenized without recognising special tokens."""

    segments: list[Segment]

    @property
    def text(self) -> str:
        """The whole prompt."""
        return "".join(segment.text for segment in self.segments)

    @property
    def frame(self) -> list[str]:
        """The texts before, between and behind segments whose tokens are known."""
        parts = [""]
        for segment in self.segments:
            if segment.token_ids is None:
                parts[-1] += segment.text
            else:
                parts.append("")
        return parts


class ChatTemplate:
    """A model's chat template; a template that can't be compiled raises `jinja2.TemplateSyntaxError`."""

    def __init__(self, source: str, *, bos_token: str, eos_token: str, special_tokens: Collection[str]) -> None:
        self.source = source
        self._template = TemplateEnvironment().from_string(source)
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._protected_text = ProtectedText(special_tokens)

    def render(
        self, chat: pb.ChatPrompt, *, now: datetime, spoken: Mapping[int, Spoken] = MappingProxyType({})
    ) -> RenderedPrompt:
        """Renders a conversation; a last message of the assistant is left open, so that the model continues it.

        `spoken` are answers, by index of their message, that stand as the model wrote them.
        """
        variables = _variables(chat)
        protection = self._protected_text.protect(variables)
        variables = protection.value
        for index, answer in spoken.items():
            place = protection.place_of(answer.text, answer.token_ids)
            variables["messages"][index] = {"role": "assistant", "content": place}
        is_continued = _is_continued(chat)
        if is_continued:
            variables["messages"][-1]["content"] += protection.end_mark
        text = self._run(
            {
                **variables,
                **self._tokens,
                "add_generation_prompt": not is_continued,
                "range": bounded_range(),
                "strftime_now": now.strftime,
            }
        )
        if is_continued:
            text, mark, _ = text.rpartition(protection.end_mark)
            if not mark:
                raise _invalid("The model's chat template can't continue an assistant message.")
        return RenderedPrompt(protection.segments(text))

    def replay(self, chat: pb.ChatPrompt, *, now: datetime, spoken: Mapping[int, Spoken]) -> RenderedPrompt:
        """Renders a conversation with answers as the model wrote them, as far as the template lets them fit."""
        plain = self.render(chat, now=now)
        if not spoken:
            return plain
        replayed = self.render(chat, now=now, spoken=spoken)
        placed = [segment.token_ids for segment in replayed.segments if segment.token_ids is not None]
        answers = [spoken[index] for index in sorted(spoken)]
        are_in_order = placed == [answer.token_ids for answer in answers]
        return replayed if are_in_order and fits_frame(plain.text, replayed.frame, answers) else plain

    def _run(self, variables: Mapping[str, Any]) -> str:
        try:
            return self._template.render(variables)
        except TemplateRefusalError as error:
            raise _invalid(f"The model's chat template refused the messages: {error}") from error
        except TemplateError as error:
            raise _invalid(f"The model's chat template failed: {error}") from error
        except Exception as error:  # a template is foreign code: it fails in any way
            raise _invalid(f"The model's chat template failed: {type(error).__name__}: {error}") from error


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="messages")


def _is_continued(chat: pb.ChatPrompt) -> bool:
    last = chat.messages[-1] if chat.messages else None
    return last is not None and last.role == pb.ROLE_ASSISTANT and not last.tool_calls


def _variables(chat: pb.ChatPrompt) -> dict[str, Any]:
    variables = _template_kwargs(chat.template_kwargs_json)
    if chat.reasoning_effort:
        variables.setdefault("reasoning_effort", chat.reasoning_effort)
    variables["messages"] = [_message(message) for message in chat.messages]
    variables["tools"] = [_tool(tool) for tool in chat.tools] or None
    return variables


def _template_kwargs(text: str) -> dict[str, Any]:
    kwargs = _parsed(text) if text else {}
    if not isinstance(kwargs, dict):
        raise InvalidRequest("'chat_template_kwargs' must be a JSON object.", param="chat_template_kwargs")
    if taken := _RESERVED & kwargs.keys():
        names = ", ".join(sorted(taken))
        raise InvalidRequest(f"'chat_template_kwargs' may not set {names}.", param="chat_template_kwargs")
    return kwargs


def _message(message: pb.Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": _role(message.role), "content": _content(message)}
    if message.reasoning_content:
        fields["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        fields["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    if message.name:
        fields["name"] = message.name
    return fields


def _role(role: pb.Role.ValueType) -> str:
    if role not in _ROLES:
        raise _invalid("A message has no valid role.")
    return _ROLES[role]


def _content(message: pb.Message) -> str:
    """Joins the parts of a message: many templates can't read a list of them."""
    if any(part.WhichOneof("part") == "image" for part in message.content):
        raise _invalid("This model can't read images.")
    return "\n".join(part.text for part in message.content)


def _tool_call(call: pb.ToolCall) -> dict[str, Any]:
    # Clients change the white space of arguments; parsed, they are rendered again as the model wrote them.
    arguments = _parsed(call.arguments_json) if call.arguments_json else {}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tool(tool: pb.Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters_json:
        function["parameters"] = _parsed(tool.parameters_json)
    return {"type": "function", "function": function}


def _parsed(text: str) -> Any:
    """Parses JSON; text that is none stays as it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
