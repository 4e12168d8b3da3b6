"""How much each workload asks for."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Sizes:
    """The full benchmark; tokens of generated prompts are approximate."""

    prefill_tokens: int = 2048
    answer_tokens: int = 128
    other_tokens: int = 32_768
    """Of other conversations that are cached."""
    streams: tuple[int, ...] = (1, 2, 4, 8)
    system_rules: int = 150
    """Lines of the generated system prompt: about 2,000 tokens."""
    tool_sentences: int = 26
    """Of each generated tool's description: about 5,000 tokens for ten tools."""
    turns: int = 8
    """Of a generated session."""
    day_sessions: int = 4
    """Generated sessions of a day."""
    edit_lines: int = 40
    overhead_requests: int = 300
    tool_requests: int | None = None
    """How many of the set are asked; all by default."""
    layout_requests: int = 25
    """The same for each prompt layout."""


FULL: Final = Sizes()
QUICK: Final = Sizes(
    prefill_tokens=256,
    answer_tokens=24,
    other_tokens=1024,
    streams=(1, 2, 4),
    system_rules=12,
    tool_sentences=2,
    turns=3,
    day_sessions=3,
    edit_lines=8,
    overhead_requests=40,
    tool_requests=5,
    layout_requests=5,
)
"""Shows within minutes that all parts work; its numbers say little."""
