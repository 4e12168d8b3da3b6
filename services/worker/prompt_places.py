"""Which message of a conversation a place in its rendered prompt belongs to, and what stands there: pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb

_HEAD: Final = 80  # characters of a text by which it is found again
_EXCERPT: Final = 120


@dataclass(frozen=True)
class Line:
    """A line of a prompt."""

    start: int
    """Characters before it."""
    text: str
    """All of it."""
    excerpt: str
    """The part of it around the place, short enough to show."""


@dataclass(frozen=True)
class _Found:
    """Where a message stands in a prompt."""

    index: int
    start: int
    end: int
    is_whole: bool
    """Whether all of it stands there, and not only its beginning."""


def place_of(chat: pb.ChatPrompt, text: str, offset: int, *, token_index: int) -> pb.PromptPlace:
    """Names the part of a prompt that a character is in.

    Templates move and trim what messages say, so each is looked for behind the one before it.
    """
    place = pb.PromptPlace(token_index=token_index)
    found: _Found | None = None  # the last message that begins before the character
    for message in _messages(chat, text):
        if message.start > offset:
            break
        found = message
    tools_start = text.find(chat.tools[0].name, found.end if found else 0) if chat.tools else -1
    is_before_tools = tools_start < 0 or offset < text.rfind("\n", 0, tools_start) + 1
    is_system = found is not None and chat.messages[found.index].role == pb.ROLE_SYSTEM
    if (found is None or is_system) and not is_before_tools:
        place.in_tools = True
    elif found is not None:
        # What the template writes behind a message leads in the next one.
        is_past = found.is_whole and offset >= found.end and found.index + 1 < len(chat.messages)
        place.message_index = found.index + is_past
        place.role = chat.messages[place.message_index].role
    return place


def line_at(text: str, offset: int) -> Line:
    """The line that a character is in."""
    start = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    end = len(text) if end < 0 else end
    first = max(start, min(offset - _EXCERPT // 2, end - _EXCERPT))
    shown = text[first : first + _EXCERPT].split("\n", 1)[0]
    before, after = "…" if first > start else "", "…" if first + len(shown) < end else ""
    return Line(start, text[start:end], f"{before}{shown}{after}")


def _messages(chat: pb.ChatPrompt, text: str) -> Iterator[_Found]:
    """The messages that are found in a prompt, in order."""
    at = 0
    for index, message in enumerate(chat.messages):
        said = "".join(part.text for part in message.content).strip()
        wanted = said or next((call.name for call in message.tool_calls), "")
        start = text.find(wanted[:_HEAD], at) if wanted else -1
        if start >= 0:
            is_whole = bool(said) and text.startswith(said, start)
            at = start + (len(said) if is_whole else len(wanted[:_HEAD]))
            yield _Found(index, start, at, is_whole)
