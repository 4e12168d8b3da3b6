"""Conversations rendered to the prompt text that a model was trained on."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from jinja2 import TemplateError

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest
from services.worker.history import History, HistoryId, as_given, parsed
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

    def __init__(
        self, source: str, *, bos_token: str, eos_token: str, special_tokens: Collection[str],
        history_id: HistoryId = as_given,
    ) -> None:  # fmt: skip
        self.source = source
        self._history = History(source, history_id)
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
        variables["messages"] = self._history.messages(chat.messages)
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
    variables["tools"] = [_tool(tool) for tool in chat.tools] or None
    return variables


def _template_kwargs(text: str) -> dict[str, Any]:
    kwargs = parsed(text) if text else {}
    if not isinstance(kwargs, dict):
        raise InvalidRequest("'chat_template_kwargs' must be a JSON object.", param="chat_template_kwargs")
    if taken := _RESERVED & kwargs.keys():
        names = ", ".join(sorted(taken))
        raise InvalidRequest(f"'chat_template_kwargs' may not set {names}.", param="chat_template_kwargs")
    return kwargs


def _tool(tool: pb.Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters_json:
        function["parameters"] = parsed(tool.parameters_json)
    return {"type": "function", "function": function}
