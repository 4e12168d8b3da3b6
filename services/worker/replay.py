"""Remembers the tokens of answers, so that an answer that comes back in the next turn is the same tokens again.

A client sends an answer back as text and parsed calls. Rendered by the template and tokenized anew it seldom is what
the model wrote: other pieces, other white space, a call in another form. Then its KV state, and that of all behind it,
could not be reused.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from localcode.inference.v1 import inference_pb2 as pb

_MOST_ANSWERS: Final = 8192
_MOST_TOKENS: Final = 4_000_000
_OPENING_CHARS: Final = 32


@dataclass(frozen=True)
class Spoken:
    """An answer as the model wrote it."""

    token_ids: tuple[int, ...]
    text: str
    reasoning: str
    """The part of it that was reasoning, without its tags."""
    opening: str
    """The end of the prompt that it followed."""


@dataclass
class Transcript:
    """Collects an answer as its client sees it."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, pb.ToolCall] = field(default_factory=dict)

    def add(self, delta: pb.Delta) -> None:
        """Takes the next part."""
        self.content.append(delta.content)
        self.reasoning.append(delta.reasoning)
        if delta.HasField("tool_call"):
            call = self.calls.setdefault(delta.tool_call.index, pb.ToolCall())
            call.name += delta.tool_call.name
            call.arguments_json += delta.tool_call.arguments

    def message(self) -> pb.Message:
        """The message that the client will send back."""
        return pb.Message(
            role=pb.ROLE_ASSISTANT,
            content=[pb.ContentPart(text="".join(self.content))],
            reasoning_content="".join(self.reasoning),
            tool_calls=[self.calls[index] for index in sorted(self.calls)],
        )


def opening_of(prompt: str) -> str:
    """The end of a prompt: what must stand before an answer that is put back in place."""
    return prompt[-_OPENING_CHARS:]


def conversation_keys(chat: pb.ChatPrompt) -> list[bytes]:
    """Names each beginning of a conversation by its meaning: key n stands for the first n messages."""
    tools = [[tool.name, tool.description, _parsed(tool.parameters_json)] for tool in chat.tools]
    keys = [_hash(b"", [tools, _parsed(chat.template_kwargs_json), chat.reasoning_effort])]
    for message in chat.messages:
        keys.append(answer_key(keys[-1], message))
    return keys


def answer_key(conversation: bytes, message: pb.Message) -> bytes:
    """Names a conversation with one message more. White space around content and within arguments means nothing."""
    return _hash(
        conversation,
        [
            message.role,
            "\n".join(part.text for part in message.content).strip(),
            message.reasoning_content.strip(),
            [[call.name, _parsed(call.arguments_json)] for call in message.tool_calls],
            message.name,
        ],
    )


class ReplayMemory:
    """Answers by the conversation that they end; the one that was used longest ago is forgotten first. Thread-safe."""

    def __init__(self, *, most_answers: int = _MOST_ANSWERS, most_tokens: int = _MOST_TOKENS) -> None:
        self._most_answers, self._most_tokens = most_answers, most_tokens
        self._answers: OrderedDict[bytes, Spoken] = OrderedDict()
        self._token_count = 0
        self._guard = threading.Lock()

    def __len__(self) -> int:
        return len(self._answers)

    def remember(self, chat: pb.ChatPrompt, transcript: Transcript, spoken: Spoken) -> None:
        """Keeps the answer to a conversation."""
        key = answer_key(conversation_keys(chat)[-1], transcript.message())
        with self._guard:
            self._forget(key)
            self._answers[key] = spoken
            self._token_count += len(spoken.token_ids)
            while len(self._answers) > self._most_answers or self._token_count > self._most_tokens:
                self._forget(next(iter(self._answers)))

    def recall(self, chat: pb.ChatPrompt) -> dict[int, Spoken]:
        """Finds the answers that a conversation brings back unchanged in meaning, by the index of their message."""
        if not self._answers:
            return {}
        keys = conversation_keys(chat)
        found: dict[int, Spoken] = {}
        with self._guard:
            for index, message in enumerate(chat.messages):
                if message.role == pb.ROLE_ASSISTANT and (spoken := self._answers.get(keys[index + 1])):
                    self._answers.move_to_end(keys[index + 1])
                    found[index] = spoken
        return found

    def _forget(self, key: bytes) -> None:
        spoken = self._answers.pop(key, None)
        self._token_count -= len(spoken.token_ids) if spoken else 0


def fits_frame(rendered: str, frame: Sequence[str], answers: Sequence[Spoken]) -> bool:
    """Whether answers may be put between the parts of a frame, given how the template renders the real messages.

    Each must stand where its prompt ended, the template must write the same around the real message, and must not have
    dropped its reasoning.
    """
    if not rendered.startswith(frame[0]):
        return False
    at = len(frame[0])
    for number, answer in enumerate(answers):
        is_last = number == len(answers) - 1
        following = frame[number + 1]
        end = len(rendered) - len(following) if is_last else rendered.find(following, at)
        fits = at <= end and rendered.startswith(following, end) and frame[number].endswith(answer.opening)
        if not fits or answer.reasoning.strip() not in rendered[at:end]:
            return False
        at = end + len(following)
    return True


def _hash(parent: bytes, value: Any) -> bytes:
    return hashlib.sha256(parent + json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).digest()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return text
