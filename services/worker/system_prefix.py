"""Finds how much of a prompt is tools and system text, which other conversations share."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest
from services.worker.scheduler import shared_length

_MOST_REMEMBERED: Final = 256


class SystemPrefix:
    """Remembers lengths by tools and system messages: rendering those takes as long as the prompt itself. Thread-safe.

    `render` makes the tokens of a conversation; it may refuse one so short.
    """

    def __init__(self, render: Callable[[pb.ChatPrompt], Sequence[int]]) -> None:
        self._render = render
        self._counts: OrderedDict[bytes, int] = OrderedDict()
        self._guard = threading.Lock()

    def token_count(self, chat: pb.ChatPrompt, tokens: Sequence[int]) -> int:
        """Counts the tokens of a prompt that any conversation with its tools and system text begins with."""
        beginning = _beginning(chat)
        if not beginning.tools and len(beginning.messages) == 1:
            return 0
        key = hashlib.sha256(beginning.SerializeToString(deterministic=True)).digest()
        with self._guard:
            known = self._counts.get(key)
        if known is not None:
            return min(known, len(tokens))
        try:
            count = shared_length(tokens, self._render(beginning))
        except InvalidRequest:
            count = 0
        with self._guard:
            self._counts[key] = count
            if len(self._counts) > _MOST_REMEMBERED:
                self._counts.popitem(last=False)
        return count


def _beginning(chat: pb.ChatPrompt) -> pb.ChatPrompt:
    """The conversation with nothing but its tools, its leading system messages and an empty question."""
    system = list(takewhile(lambda message: message.role == pb.ROLE_SYSTEM, chat.messages))
    return pb.ChatPrompt(
        messages=[*system, pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text="")])],
        tools=chat.tools,
        template_kwargs_json=chat.template_kwargs_json,
        reasoning_effort=chat.reasoning_effort,
    )
