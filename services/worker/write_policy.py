"""Decides which KV blocks are written to the store, in which order and when: pure.

A block is worth what restoring it will probably save. How often it will be asked for again follows from what requests
have said of it: tools and system text return with every session, a conversation whose last answer called a tool
returns within seconds, a title returns never, nor does a subagent that has given its answer. What may never return is
written when it has.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.sealing import BlockRole

ONE_OFF_CLASSES: Final = frozenset({pb.REQUEST_CLASS_TITLE, pb.REQUEST_CLASS_COMPACTION, pb.REQUEST_CLASS_FIM})
SECONDS_PER_BYTE: Final = 1e-9
"""What a written byte must save: a gigabyte of a disk's life for a second of waiting."""
_SYSTEM_USES: Final = 4.0
_EXPECTED_USES: Final = 2.0
_CONVERSATION_USES: Final = 1.0
_ENDED_USES: Final = 0.25
_QUIET_SECONDS: Final = 5.0
_TOOL_SECONDS: Final = 20.0  # most tools have answered by then, and the next turn replaces the tail


class Part(Enum):
    """Where in a conversation a block lies."""

    SYSTEM = "system"
    """Within tools and system prompt."""
    HISTORY = "history"
    """Behind them, in a prompt."""
    GENERATED = "generated"
    """In an answer, or across its beginning."""


@dataclass(frozen=True)
class Origin:
    """What requests have said of a block."""

    request_class: "pb.RequestClass.ValueType" = pb.REQUEST_CLASS_UNSPECIFIED
    part: Part = Part.GENERATED
    seen_count: int = 0
    """Prompts that held it."""
    has_returned: bool = False
    """Whether a prompt held it after its conversation had ended; the next turn of an agent's loop is no return."""
    goes_on: bool = False
    """Whether the answer behind it called a tool, so that the next prompt will hold it."""


@dataclass(frozen=True)
class BlockCost:
    """What a block takes and gives."""

    size_bytes: int
    recompute_seconds: float
    restore_seconds: float = 0.0
    """What bringing it back from the store takes; 0 where that was never measured."""


def is_one_off(origin: Origin) -> bool:
    """Whether a block belongs to requests that don't return, and did not return so far."""
    return origin.request_class in ONE_OFF_CLASSES and not origin.has_returned


def expected_uses(origin: Origin) -> float:
    """Guesses how often a block will be asked for again."""
    if is_one_off(origin):
        return 0.0
    if origin.part is Part.SYSTEM:
        return _SYSTEM_USES
    if _has_ended(origin) and not origin.has_returned:
        return 0.0
    if origin.goes_on:
        return _EXPECTED_USES
    return _ENDED_USES if _has_ended(origin) else _CONVERSATION_USES


def worth_seconds(origin: Origin, cost: BlockCost) -> float:
    """The time that storing a block will probably save, less what its bytes cost; not positive: don't write it."""
    saved_seconds = max(0.0, cost.recompute_seconds - cost.restore_seconds)
    return expected_uses(origin) * saved_seconds - cost.size_bytes * SECONDS_PER_BYTE


def urgency(origin: Origin, cost: BlockCost) -> tuple[bool, float]:
    """Orders blocks that are to be written, the greatest first: what will be needed soon, then what saves most."""
    return origin.goes_on, worth_seconds(origin, cost) / max(1, cost.size_bytes)


def quiet_seconds(origin: Origin) -> float | None:
    """How long the last, partial block of a conversation must have rested to be written; None: it never is."""
    if is_one_off(origin) or _has_ended(origin):
        return None
    return _TOOL_SECONDS if origin.goes_on else _QUIET_SECONDS


def role_of(origin: Origin) -> BlockRole:
    """The role that a block is stored under."""
    if origin.part is Part.SYSTEM:
        return BlockRole.SYSTEM
    return BlockRole.ENDED if _has_ended(origin) else BlockRole.CONVERSATION


def _has_ended(origin: Origin) -> bool:
    ending_classes = ONE_OFF_CLASSES | {pb.REQUEST_CLASS_SUBAGENT}
    return origin.request_class in ending_classes and not origin.goes_on


class WearBudget:
    """Keeps the bytes written within a bound for each token that was computed; without one, nothing is held back."""

    def __init__(self, bytes_per_token: int | None) -> None:
        self._bytes_per_token = bytes_per_token
        self.computed_count = 0
        self.written_bytes = 0

    def note_computed(self, token_count: int) -> None:
        """Counts tokens that were computed."""
        self.computed_count += token_count

    def note_written(self, size_bytes: int) -> None:
        """Counts bytes that were written."""
        self.written_bytes += size_bytes

    def allows(self, size_bytes: int) -> bool:
        """Whether so many bytes more may be written."""
        bound = self._bytes_per_token
        return bound is None or self.written_bytes + size_bytes <= bound * self.computed_count
