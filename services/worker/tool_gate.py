"""Asks a model, in a short prompt of its own, whether a message needs a tool at all: the tool gate.

A small model in an agent's long prompt calls a tool for greetings, or answers without one what only the files can tell.
Shown the message alone, behind examples, it tells both kinds apart nearly always (`bench/RESULTS.md`). The examples are
computed once and then found in the cache like any beginning of a prompt.
"""

import math
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from enum import Enum, auto
from typing import Final

import structlog

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import ServiceError

_log = structlog.get_logger(__name__)

_QUESTION: Final = (
    "Decide whether a message to a coding assistant can be answered from general knowledge alone, or whether the "
    "assistant must look at files, change files, run commands or open web pages first. Answer with one word: knowledge "
    "or tools."
)
_KNOWLEDGE: Final = "knowledge"
_TOOLS: Final = "tools"
_EXAMPLES: Final = (
    ("What is polymorphism?", _KNOWLEDGE),
    ("Open main.go.", _TOOLS),
    ("Good morning", _KNOWLEDGE),
    ("Rename the class Foo to Bar.", _TOOLS),
    ("What is 12 plus 30?", _KNOWLEDGE),
    ("Does this project use React?", _TOOLS),
    ("How do I sort a list in Ruby? Only tell me, change nothing.", _KNOWLEDGE),
    ("Delete the folder build.", _TOOLS),
    ("Perfect, thanks a lot", _KNOWLEDGE),
    ("Where is the class Parser defined?", _TOOLS),
    ("Write a limerick about the sea.", _KNOWLEDGE),
    ("How much memory is in use?", _TOOLS),
    ("Explain how the cache works in this repository.", _TOOLS),
    ("Explain how a cache works.", _KNOWLEDGE),
    ("Summarize NOTES.txt.", _TOOLS),
    ("How do you say water in Spanish?", _KNOWLEDGE),
    ("Sum up what https://example.org/news says.", _TOOLS),
    ("Who wrote Hamlet?", _KNOWLEDGE),
    ("Write a script that renames photos.", _TOOLS),
    ("What is the difference between a process and a thread?", _KNOWLEDGE),
    ("Which version of Node do we have?", _TOOLS),
    ("Give me a word that rhymes with house.", _KNOWLEDGE),
    ("Set the timeout to 30 seconds.", _TOOLS),
    ("What does an index do in a database?", _KNOWLEDGE),
    ("Is the earth round?", _KNOWLEDGE),
    ("Is there a README?", _TOOLS),
    ("Tell me something funny.", _KNOWLEDGE),
    ("Make the button blue.", _TOOLS),
    ("Compare Java with C#.", _KNOWLEDGE),
    ("Why is the server crashing?", _TOOLS),
    ("What are you able to do?", _KNOWLEDGE),
    ("Undo that.", _TOOLS),
    ("Translate the word tree into Italian.", _KNOWLEDGE),
    ("Show the diff.", _TOOLS),
    ("Well done", _KNOWLEDGE),
    ("Check the logs.", _TOOLS),
)
_DECIDING_MARGIN: Final = math.log(2)  # nats: one answer is twice as likely as the other
_LEAST_LOGPROB: Final = math.log(0.1)  # a model that would rather say something else was not understood
_MOST_CHARACTERS: Final = 600
_MOST_CHARACTERS_BEFORE: Final = 200
_MOST_ALTERNATIVES: Final = 20
_CALL_BEGINNINGS: Final = ("{", "[{", "<tool", "``")
_REMINDERS: Final = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)


class Need(Enum):
    """Whether a message needs a tool."""

    TOOL = auto()
    NONE = auto()
    UNSURE = auto()
    """The model decides as it would have."""


def gate_prompt(request: pb.GenerateRequest) -> pb.ChatPrompt | None:
    """The conversation that asks; None unless tools are offered, the model may choose, and a person is to be answered.

    What a later message means ("yes, do it") depends on what the assistant said before, so the end of that is shown.
    """
    chat = request.chat
    is_open = chat.tool_choice.mode in {pb.TOOL_CHOICE_MODE_UNSPECIFIED, pb.TOOL_CHOICE_MODE_AUTO}
    if not chat.tools or not is_open or request.resume_tokens or request.HasField("response_format"):
        return None
    if not chat.messages or chat.messages[-1].role != pb.ROLE_USER:
        return None
    text = _excerpt(chat.messages[-1])
    if text and any(message.role != pb.ROLE_SYSTEM for message in chat.messages[:-1]):
        before = _said_before(chat)
        text = f"(The assistant said before: {before})\n{text}" if before else ""
    return conversation_about(text) if text else None


def conversation_about(text: str) -> pb.ChatPrompt:
    """Question and examples, then what is to be judged."""
    chat = pb.ChatPrompt(messages=[_message(pb.ROLE_SYSTEM, _QUESTION)])
    for question, answer in _EXAMPLES:
        chat.messages.append(_message(pb.ROLE_USER, question))
        chat.messages.append(_message(pb.ROLE_ASSISTANT, answer))
    chat.messages.append(_message(pb.ROLE_USER, text))
    return chat


def need_of(alternatives: Iterable[pb.TopLogprob]) -> Need:
    """What the likeliest first tokens of the answer say."""
    logprobs = {_KNOWLEDGE: -math.inf, _TOOLS: -math.inf}
    for alternative in alternatives:
        beginning = alternative.token.strip().lower()
        for word in logprobs:
            if beginning and word.startswith(beginning):
                logprobs[word] = max(logprobs[word], alternative.logprob)
    if max(logprobs.values()) < _LEAST_LOGPROB:
        return Need.UNSURE
    margin = logprobs[_TOOLS] - logprobs[_KNOWLEDGE]
    if abs(margin) < _DECIDING_MARGIN:
        return Need.UNSURE
    return Need.TOOL if margin > 0 else Need.NONE


def decided(request: pb.GenerateRequest, need: Need) -> pb.GenerateRequest:
    """The request, without calls if none is needed."""
    if need is not Need.NONE:
        return request
    made = pb.GenerateRequest()
    made.CopyFrom(request)
    made.chat.tool_choice.mode = pb.TOOL_CHOICE_MODE_NONE
    return made


def call_beginnings(pieces: Iterable[bytes]) -> frozenset[int]:
    """Tokens of a vocabulary that an answer without calls must not begin with: they open a call, or code around one."""
    return frozenset(
        token
        for token, piece in enumerate(pieces)
        if piece.decode(errors="replace").lstrip().startswith(_CALL_BEGINNINGS)
    )


async def ask(
    request: pb.GenerateRequest, generate: Callable[[pb.GenerateRequest], AsyncGenerator[pb.GenerateResponse]]
) -> Need:
    """Asks the model about a request. One that can't be asked leaves the decision to the answer itself."""
    prompt = gate_prompt(request)
    if prompt is None:
        return Need.UNSURE
    started, need, usage = time.monotonic(), Need.UNSURE, pb.Usage()
    try:
        async with aclosing(generate(_question(request, prompt))) as events:
            async for event in events:
                for logprob in event.delta.logprobs:
                    need = need_of(logprob.top)
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


def _question(request: pb.GenerateRequest, prompt: pb.ChatPrompt) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        request_id=f"{request.request_id}-gate", model=request.model, chat=prompt, max_tokens=1,
        sampling=pb.SamplingParams(temperature=0), top_logprobs=_MOST_ALTERNATIVES,
        context=pb.RequestContext(request_class=pb.REQUEST_CLASS_CHAT, key_id=request.context.key_id),
    )  # fmt: skip


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


def _message(role: "pb.Role.ValueType", text: str) -> pb.Message:
    return pb.Message(role=role, content=[pb.ContentPart(text=text)])
