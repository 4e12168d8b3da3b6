"""Which conversation each sequence id stands for: what llama-server calls slots. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.worker.blocks import Tokens, as_tokens, shared_token_count


class RunningRequest(Protocol):
    """A request that holds a sequence (`Generation`)."""

    request_id: str
    tokens: list[int]
    prompt_token_count: int

    @property
    def generated_count(self) -> int:
        """Tokens generated so far."""
        ...


@dataclass(frozen=True)
class SlotState:
    """A sequence as it is shown."""

    id: int
    is_processing: bool = False
    request_id: str = ""
    filename: str = ""
    task_number: int = 0
    token_count: int = 0
    prompt_token_count: int = 0
    generated_count: int = 0


@dataclass
class _Slot:
    request_id: str = ""
    filename: str = ""
    task_number: int = 0
    tokens: Tokens | None = None


class SlotBook:
    """Remembers the last conversation of each sequence, wherever its state has moved since."""

    def __init__(self, count: int) -> None:
        self._slots = [_Slot() for _ in range(count)]
        self._task_count = 0

    def __len__(self) -> int:
        return len(self._slots)

    def begin(self, slot_id: int, request_id: str) -> None:
        """Takes note that a request was given a sequence."""
        self._task_count += 1
        self._slots[slot_id] = _Slot(request_id, task_number=self._task_count)

    def end(self, slot_id: int, tokens: Sequence[int]) -> None:
        """Takes note of what was computed in a sequence; slots that stand for its beginning stand for nothing more."""
        known = as_tokens(tokens)
        for slot in self._slots:
            if slot.tokens is not None and shared_token_count(slot.tokens, known) == len(slot.tokens):
                slot.tokens = None
        self._slots[slot_id].tokens = known

    def restore(self, slot_id: int, tokens: Tokens, filename: str) -> None:
        """Lets a slot stand for a conversation that was brought back."""
        self._slots[slot_id] = _Slot(
            self._slots[slot_id].request_id, filename, self._slots[slot_id].task_number, tokens
        )

    def clear(self, slot_id: int) -> None:
        """Lets a slot stand for nothing."""
        self._slots[slot_id].tokens, self._slots[slot_id].filename = None, ""

    def clear_all(self) -> None:
        """Lets all slots stand for nothing."""
        for slot_id in range(len(self._slots)):
            self.clear(slot_id)

    def tokens(self, slot_id: int) -> Tokens | None:
        """The conversation that a slot stands for."""
        return self._slots[slot_id].tokens

    def states(self, running: Mapping[int, RunningRequest]) -> list[SlotState]:
        """All slots, given the requests that run, by sequence."""
        return [self._state(slot_id, running.get(slot_id)) for slot_id in range(len(self._slots))]

    def _state(self, slot_id: int, request: RunningRequest | None) -> SlotState:
        slot = self._slots[slot_id]
        if request is None:
            count = 0 if slot.tokens is None else len(slot.tokens)
            return SlotState(slot_id, False, slot.request_id, slot.filename, slot.task_number, count)
        return SlotState(
            slot_id, True, request.request_id, "", slot.task_number, len(request.tokens), request.prompt_token_count,
            request.generated_count,
        )  # fmt: skip
