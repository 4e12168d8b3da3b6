"""Reasoning that a model writes before its answer, split from the answer while streaming.

How models mark it is told by their chat templates; sources are named where a mark is listed.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from services.worker.harmony_channels import ANALYSIS, CHANNEL, MESSAGE, ChannelSplitter
from services.worker.pieces import Piece, overlap, pieces_of


class Splitter(Protocol):
    """Splits one answer into reasoning and content."""

    @property
    def is_reasoning(self) -> bool:
        """Whether the next token belongs to the reasoning."""
        ...

    def feed(self, text: str) -> list[Piece]:
        """Takes the next text and returns what is decided."""
        ...

    def flush(self) -> list[Piece]:
        """Ends the text: what was held back is decided."""
        ...


class Reasoning(Protocol):
    """The way in which one answer marks its reasoning."""

    @property
    def starts_open(self) -> bool:
        """Whether the prompt ends within the reasoning already."""
        ...

    def splitter(self) -> Splitter:
        """Makes the splitter of one answer."""
        ...


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """Reasoning between two tags; the prompt may already end with the opening one, or with both to switch it off."""

    open_tag: str = "<think>"
    close_tag: str = "</think>"
    starts_open: bool = False
    is_off: bool = False
    ends: tuple[str, ...] = ()
    """Marks of calls, which end the reasoning, too, where its closing tag was forgotten."""
    content_tags: tuple[str, str] = ("", "")
    """Tags around the content, which are dropped."""

    def splitter(self) -> Splitter:
        """Makes the splitter of one answer."""
        return ReasoningSplitter(self)


@dataclass(frozen=True, slots=True)
class HarmonyReasoning:
    """Reasoning in a channel of its own (gpt-oss)."""

    starts_open: bool = False

    def splitter(self) -> Splitter:
        """Makes the splitter of one answer."""
        return ChannelSplitter(starts_in_analysis=self.starts_open)


_HARMONY_OPEN: Final = f"{CHANNEL}{ANALYSIS}{MESSAGE}"
# Tried in this order; a template that contains the last tag of one writes its reasoning so.
_TAGS: Final = (
    # Magistral: https://huggingface.co/mistralai/Magistral-Small-2509
    ("[THINK]", "[/THINK]"),
    # Gemma 4: https://ai.google.dev/gemma/docs/core/prompt-formatting-gemma4
    ("<|channel>thought", "<channel|>"),
    # DeepSeek R1 and V3.1, Qwen3, GLM, MiniMax M2, Kimi K2 Thinking, Granite 3.3
    ("<think>", "</think>"),
    # Seed-OSS: https://huggingface.co/ByteDance-Seed/Seed-OSS-36B-Instruct
    ("<seed:think>", "</seed:think>"),
    # Kimi-VL Thinking: https://huggingface.co/moonshotai/Kimi-VL-A3B-Thinking-2506
    ("◁think▷", "◁/think▷"),
    # Granite 3.2: https://huggingface.co/ibm-granite/granite-3.2-8b-instruct
    ("Here is my thought process:", "Here is my response:"),
)
_CALL_MARKS: Final = ("<|tool_calls_section_begin|>", "<｜tool▁calls▁begin｜>", "<minimax:tool_call>", "[TOOL_CALLS]")  # noqa: RUF001
# Granite 3.3: https://huggingface.co/ibm-granite/granite-3.3-8b-instruct
_RESPONSE_TAGS: Final = ("<response>", "</response>")
REASONING_TEXTS: Final = frozenset(tag for tags in (*_TAGS, ("<|channel>",)) for tag in tags)
"""Texts by which reasoning is known, some of which are control tokens in some models."""


class _State(enum.Enum):
    START = enum.auto()
    REASONING = enum.auto()
    GAP = enum.auto()
    CONTENT = enum.auto()


def pick_reasoning(template_source: str, prompt_text: str) -> Reasoning | None:
    """Tells from its chat template and the rendered prompt how the model will mark reasoning, if at all."""
    prompt = prompt_text.rstrip()
    if CHANNEL in template_source and MESSAGE in template_source:
        return HarmonyReasoning(starts_open=prompt.endswith(_HARMONY_OPEN))
    for open_tag, close_tag in _TAGS:
        if close_tag in template_source:
            return ReasoningFormat(
                open_tag,
                close_tag,
                starts_open=prompt.endswith(open_tag),
                is_off=prompt.endswith(close_tag),
                ends=tuple(mark for mark in _CALL_MARKS if mark in template_source),
                content_tags=_RESPONSE_TAGS if _RESPONSE_TAGS[1] in template_source else ("", ""),
            )
    return None


def content_of(text: str, reasoning: Reasoning | None) -> str:
    """What of a whole answer's text is no reasoning."""
    if reasoning is None:
        return text
    splitter = reasoning.splitter()
    return "".join(piece.text for piece in (*splitter.feed(text), *splitter.flush()) if not piece.is_reasoning)


class ReasoningSplitter:
    """Splits an answer into reasoning and content; white space around the tags belongs to neither.

    Tags count only before the answer's content: later ones are text that the model talks about.
    """

    def __init__(self, reasoning_format: ReasoningFormat) -> None:
        self._format = reasoning_format
        self._ends = (reasoning_format.close_tag, *reasoning_format.ends)
        self._state = _State.START
        self._is_open = reasoning_format.starts_open
        self._has_reasoning = False
        self._has_content_tag = False
        self._buffer = ""
        self._takers: tuple[tuple[_State, Callable[[], list[Piece]]], ...] = (
            (_State.START, self._take_start),
            (_State.REASONING, self._take_reasoning),
            (_State.GAP, self._take_gap),
            (_State.CONTENT, self._take_content),
        )

    @property
    def is_reasoning(self) -> bool:
        """Whether the next token belongs to the reasoning."""
        return self._is_open

    def feed(self, text: str) -> list[Piece]:
        """Takes the next text and returns what is decided."""
        self._buffer += text
        pieces: list[Piece] = []
        for state, take in self._takers:
            if self._state is state:
                pieces += take()
        return pieces

    def flush(self) -> list[Piece]:
        """Ends the text: what was held back is decided."""
        if self._state is _State.GAP and not self._buffer.strip():
            self._buffer = ""
        if self._has_content_tag:
            self._buffer = self._buffer.rstrip().removesuffix(self._format.content_tags[1])
        return self._take_buffer(is_reasoning=self._is_open)

    def _take_start(self) -> list[Piece]:
        text = self._buffer.lstrip()
        if text.startswith(self._format.open_tag):
            self._buffer = text[len(self._format.open_tag) :]
            self._is_open = True
        elif self._format.open_tag.startswith(text):  # also when there is only white space so far
            return []
        self._state = _State.REASONING if self._is_open else _State.CONTENT
        return []

    def _take_reasoning(self) -> list[Piece]:
        if not self._has_reasoning:
            self._buffer = self._buffer.lstrip()
        found = [(start, end) for end in self._ends if (start := self._buffer.find(end)) >= 0]
        if found:
            start, end = min(found)
            before = self._buffer[:start]
            after = start + len(end) if end == self._format.close_tag else start
            self._state, self._is_open, self._buffer = _State.GAP, False, self._buffer[after:]
            return pieces_of(before.rstrip(), is_reasoning=True)
        held = max(overlap(self._buffer, end) for end in self._ends)
        shown = len(self._buffer[: len(self._buffer) - held].rstrip())
        before, self._buffer = self._buffer[:shown], self._buffer[shown:]
        self._has_reasoning = self._has_reasoning or shown > 0
        return pieces_of(before, is_reasoning=True)

    def _take_gap(self) -> list[Piece]:
        self._buffer = self._buffer.lstrip()
        open_tag = self._format.content_tags[0]
        if open_tag and self._buffer.startswith(open_tag):
            self._buffer = self._buffer[len(open_tag) :].lstrip()
            self._has_content_tag = True
        elif open_tag.startswith(self._buffer):
            return []
        if self._buffer:
            self._state = _State.CONTENT
        return []

    def _take_content(self) -> list[Piece]:
        if not self._has_content_tag:
            return self._take_buffer(is_reasoning=False)
        close_tag = self._format.content_tags[1]
        body = self._buffer.rstrip()
        held = len(close_tag) if body.endswith(close_tag) else overlap(body, close_tag)
        shown, self._buffer = body[: len(body) - held], self._buffer[len(body) - held :]
        return pieces_of(shown, is_reasoning=False)

    def _take_buffer(self, *, is_reasoning: bool) -> list[Piece]:
        text, self._buffer = self._buffer, ""
        return pieces_of(text, is_reasoning=is_reasoning)
