"""Asks a model, in a short prompt of its own, whether a tool is needed: the tool gate.

A small model in an agent's long prompt calls a tool for greetings, answers without one what only the files can tell,
and goes on calling when all is done. Shown the message alone, or the calls and their results, behind examples, it
judges far better (`bench/RESULTS.md`). The examples are computed once and then found in the cache like any beginning of
a prompt.
"""

import math
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import structlog

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import ServiceError
from services.worker.tool_gate_examples import MESSAGE_EXAMPLES, RESULT_EXAMPLES, Exchange

_log = structlog.get_logger(__name__)

_ABOUT_A_MESSAGE: Final = (
    "Decide whether a message to a coding assistant can be answered from general knowledge alone, or whether the "
    "assistant must look at files, change files, run commands or open web pages first. Answer with one word: knowledge "
    "or tools."
)
_ABOUT_RESULTS: Final = (
    "A coding assistant works on a task by calling tools. Decide from the task, the calls it made and their results "
    "whether the task is done or answered now, or whether it must continue with another call. Answer with one word: "
    "done or continue."
)
_DECIDING_MARGIN: Final = math.log(2)  # nats: one answer is twice as likely as the other
_LEAST_LOGPROB: Final = math.log(0.1)  # a model that would rather say something else was not understood
_MOST_ALTERNATIVES: Final = 20
_MOST_CHARACTERS: Final = 600
_MOST_CHARACTERS_BEFORE: Final = 200
_MOST_CALLS: Final = 4
_MOST_CHARACTERS_OF_CALL: Final = 200
_MOST_CHARACTERS_OF_RESULT: Final = 300
_CALL_BEGINNINGS: Final = ("{", "[{", "<", "```")
_REMINDERS: Final = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)


class Need(Enum):
    """Whether an answer needs a tool."""

    TOOL = auto()
    NONE = auto()
    UNSURE = auto()
    """The model decides as it would have."""


@dataclass(frozen=True)
class Question:
    """What a model is asked, and the words to answer with."""

    chat: pb.ChatPrompt
    no_tool: str
    tool: str
    can_force: bool
    """Whether a call must be made if the model says so."""

    def need(self, alternatives: Iterable[pb.TopLogprob]) -> Need:
        """What the likeliest first tokens of the answer say."""
        logprobs = {self.no_tool: -math.inf, self.tool: -math.inf}
        for alternative in alternatives:
            beginning = alternative.token.strip().lower()
            for word in logprobs:
                if beginning and word.startswith(beginning):
                    logprobs[word] = max(logprobs[word], alternative.logprob)
        margin = logprobs[self.tool] - logprobs[self.no_tool]
        if max(logprobs.values()) < _LEAST_LOGPROB or abs(margin) < _DECIDING_MARGIN:
            return Need.UNSURE
        if margin < 0:
            return Need.NONE
        return Need.TOOL if self.can_force else Need.UNSURE


def question_about(request: pb.GenerateRequest) -> Question | None:
    """What to ask about a request; None unless tools are offered, the model may choose, and something is to be judged.

    That is a person's message, or results of calls that were made for it.
    """
    chat = request.chat
    is_open = chat.tool_choice.mode in {pb.TOOL_CHOICE_MODE_UNSPECIFIED, pb.TOOL_CHOICE_MODE_AUTO}
    if not chat.tools or not is_open or request.resume_tokens or request.HasField("response_format"):
        return None
    if not any(message.role == pb.ROLE_USER for message in chat.messages):
        return None
    match chat.messages[-1].role:
        case pb.ROLE_USER:
            return _about_message(chat)
        case pb.ROLE_TOOL:
            return _about_results(chat)
    return None


def decided(request: pb.GenerateRequest, need: Need) -> pb.GenerateRequest:
    """The request with its choice of tools made, if that is sure."""
    if need is Need.UNSURE:
        return request
    made = pb.GenerateRequest()
    made.CopyFrom(request)
    made.chat.tool_choice.mode = pb.TOOL_CHOICE_MODE_REQUIRED if need is Need.TOOL else pb.TOOL_CHOICE_MODE_NONE
    return made


def call_beginnings(pieces: Iterable[bytes]) -> frozenset[int]:
    """Tokens of a vocabulary that an answer without calls must not begin with: they open a call, or code around one."""
    texts = (piece.decode(errors="replace").lstrip() for piece in pieces)
    return frozenset(token for token, text in enumerate(texts) if text.startswith(_CALL_BEGINNINGS))


async def ask(
    request: pb.GenerateRequest, generate: Callable[[pb.GenerateRequest], AsyncGenerator[pb.GenerateResponse]]
) -> Need:
    """Asks the model about a request. One that can't be asked leaves the decision to the answer itself."""
    question = question_about(request)
    if question is None:
        return Need.UNSURE
    started, need, usage = time.monotonic(), Need.UNSURE, pb.Usage()
    try:
        async with aclosing(generate(_request(request, question.chat))) as events:
            async for event in events:
                for logprob in event.delta.logprobs:
                    need = question.need(logprob.top)
                usage.MergeFrom(event.finish.usage)
    except ServiceError as error:
        _log.warning("tool_gate_failed", request_id=request.request_id, error=str(error))
        return Need.UNSURE
    _log.info(
        "tool_gate", request_id=request.request_id, need=need.name.lower(),
        seconds=round(time.monotonic() - started, 3),
        prefilled_token_count=usage.prompt_token_count - usage.cached_token_count,
    )  # fmt: skip
    return need


def _request(request: pb.GenerateRequest, chat: pb.ChatPrompt) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        request_id=f"{request.request_id}-gate", model=request.model, chat=chat, max_tokens=1,
        sampling=pb.SamplingParams(temperature=0), top_logprobs=_MOST_ALTERNATIVES,
        context=pb.RequestContext(request_class=pb.REQUEST_CLASS_CHAT, key_id=request.context.key_id),
    )  # fmt: skip


def _about_message(chat: pb.ChatPrompt) -> Question | None:
    """What a later message means ("yes, do it") depends on what the assistant said: the end of that is shown."""
    text = _excerpt(chat.messages[-1])
    if text and any(message.role != pb.ROLE_SYSTEM for message in chat.messages[:-1]):
        before = _said_before(chat)
        text = f"(The assistant said before: {before})\n{text}" if before else ""
    words = {False: "knowledge", True: "tools"}
    examples = ((message, words[needs_tool]) for message, needs_tool in MESSAGE_EXAMPLES)
    if not text:
        return None
    return Question(_conversation(_ABOUT_A_MESSAGE, examples, text), words[False], words[True], can_force=True)


def _about_results(chat: pb.ChatPrompt) -> Question | None:
    """Only that all is done is taken at its word: what is missing the model sees better in the whole prompt."""
    last_user = max(index for index, message in enumerate(chat.messages) if message.role == pb.ROLE_USER)
    task = _excerpt(chat.messages[last_user])
    exchanges = _exchanges(chat.messages[last_user + 1 :])
    words = {False: "done", True: "continue"}
    examples = ((_told(*example[:2]), words[example[2]]) for example in RESULT_EXAMPLES)
    if not task or not exchanges:
        return None
    chat = _conversation(_ABOUT_RESULTS, examples, _told(task, exchanges))
    return Question(chat, words[False], words[True], can_force=False)


def _exchanges(messages: Iterable[pb.Message]) -> list[Exchange]:
    """The last calls, each with its result."""
    calls: dict[str, str] = {}
    exchanges: list[Exchange] = []
    for message in messages:
        for call in message.tool_calls:
            calls[call.id] = f"{call.name} {call.arguments_json}"
        if message.role == pb.ROLE_TOOL and (call_text := calls.pop(message.tool_call_id, "")):
            exchanges.append((call_text, _text(message)))
    return exchanges[-_MOST_CALLS:]


def _told(task: str, exchanges: Iterable[Exchange]) -> str:
    lines = [f"Task: {task}"]
    for call, result in exchanges:
        lines.append(f"Call: {call[:_MOST_CHARACTERS_OF_CALL]}")
        lines.append(f"Result: {result[:_MOST_CHARACTERS_OF_RESULT].strip() or '(no output)'}")
    return "\n".join(lines)


def _excerpt(message: pb.Message) -> str:
    """What a person wrote, without what agents put beside it; of a long text the beginning and the end."""
    if any(part.HasField("image") for part in message.content):
        return ""
    text = _REMINDERS.sub("", _text(message)).strip()
    if len(text) <= _MOST_CHARACTERS:
        return text
    half = _MOST_CHARACTERS // 2
    return f"{text[:half]} ... {text[-half:]}"


def _said_before(chat: pb.ChatPrompt) -> str:
    """The end of the last answer that was more than a call."""
    texts = (_text(message) for message in reversed(chat.messages) if message.role == pb.ROLE_ASSISTANT)
    return next(filter(None, texts), "")[-_MOST_CHARACTERS_BEFORE:]


def _text(message: pb.Message) -> str:
    return "\n".join(part.text for part in message.content).strip()


def _conversation(question: str, examples: Iterable[tuple[str, str]], text: str) -> pb.ChatPrompt:
    chat = pb.ChatPrompt(messages=[_message(pb.ROLE_SYSTEM, question)])
    for asked, answer in examples:
        chat.messages.append(_message(pb.ROLE_USER, asked))
        chat.messages.append(_message(pb.ROLE_ASSISTANT, answer))
    chat.messages.append(_message(pb.ROLE_USER, text))
    return chat


def _message(role: "pb.Role.ValueType", text: str) -> pb.Message:
    return pb.Message(role=role, content=[pb.ContentPart(text=text)])
