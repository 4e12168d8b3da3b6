"""Moves KV state between cells and a block store, and knows how fast that goes.

A block of a large model takes longer to copy than a step may be paused, so one that does not fit the time given is
saved in several calls.
"""

import math
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from services.worker.blocks import BLOCK_TOKENS, Block, BlockStore, HashedTokens, StoredPiece, shared_token_count
from services.worker.measured_rate import MeasuredRate

_FIRST_TOKENS: Final = 16  # copied at a time until the rate is known
_FEWEST_TOKENS: Final = 4
_SPARE_SHARE: Final = 1.05
_NO_ROOM: Final[NDArray[np.uint8]] = np.empty(0, np.uint8)


class StateMemory(Protocol):
    """The part of the KV memory that copies state out and in."""

    def save(self, sequence_id: int, start: int, end: int, *, room: NDArray[np.uint8] = _NO_ROOM) -> NDArray[np.uint8]:
        """Copies the state of some positions out, to the beginning of `room` if it fits there; or raises `StateLost`.

        What several calls gave, one behind the other, is the state of all their positions.
        """
        ...

    def restore(self, sequence_id: int, data: NDArray[np.uint8], start: int, end: int) -> None:
        """Puts saved positions behind those of a sequence, or raises `StateLost`."""
        ...


class Saving(Enum):
    """What a call of `save` has done."""

    NOTHING = auto()
    """The store has the block."""
    PART = auto()
    """A part was copied; call again for the next one."""
    WHOLE = auto()
    """The store got the block."""


class _Begun:
    """A block of which the first tokens are saved."""

    def __init__(self, sequence_id: int, name: bytes, room_bytes: int) -> None:
        self.sequence_id, self.name, self.token_count = sequence_id, name, 0
        self.cut: tuple[int, int] | None = None
        self._room, self._size = np.empty(room_bytes, np.uint8), 0

    @property
    def rest(self) -> NDArray[np.uint8]:
        """Where the next part should go."""
        return self._room[self._size :]

    @property
    def data(self) -> NDArray[np.uint8]:
        """What was saved so far."""
        return self._room[: self._size]

    def take(self, part: NDArray[np.uint8], token_count: int) -> None:
        """Counts a part in, and copies it where it found no room."""
        if len(part) > len(self.rest):
            self._room = np.concatenate([self.data, np.empty(2 * len(part), np.uint8)])
        if not np.shares_memory(part, self._room):
            self.rest[: len(part)] = part
        self._size += len(part)
        self.token_count += token_count


class BlockMover:
    """Saves blocks of sequences and restores them."""

    def __init__(self, memory: StateMemory, store: BlockStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._memory, self.store, self._clock = memory, store, clock
        self.restore_rate, self._save_rate = MeasuredRate(), MeasuredRate()
        self._bytes_per_token = 0.0
        self._begun: _Begun | None = None

    def save(
        self, sequence_id: int, known: HashedTokens, index: int, *, prefill_rate: float, seconds: float = math.inf
    ) -> Saving:
        """Saves one block unless the store has it, or as much of it as can be copied in a time. Raises `StateLost`."""
        tokens, parent, name = known.block(index), known.parent(index), known.hash(index)
        begun = self._begun_of(sequence_id, name)
        if self._is_covered(name, parent, tokens):
            self._forget(begun)
            return Saving.NOTHING
        cut_length = self.store.cut_length(parent, tokens)
        if begun is None and (cut_length or self._fitting(seconds) < len(tokens)):
            room_bytes = int(self._bytes_per_token * len(tokens) * _SPARE_SHARE)
            begun = self._begun = _Begun(sequence_id, name, room_bytes)
        if begun is None:
            data = self._copy(sequence_id, index * BLOCK_TOKENS, len(tokens), _NO_ROOM)
        elif self._go_on(begun, index * BLOCK_TOKENS, len(tokens), cut_length, seconds):
            data = begun.data
            self._forget(begun)
        else:
            return Saving.PART
        recompute_seconds = len(tokens) / max(prefill_rate, 1.0)
        self.store.put(Block(name, parent, tokens.copy(), data, recompute_seconds, begun.cut if begun else None))
        return Saving.WHOLE

    def _go_on(self, begun: _Begun, block_start: int, token_count: int, cut_length: int, seconds: float) -> bool:
        """Copies more of a block, up to a cut or its end, as far as fits a time; says whether all of it is there."""
        deadline = self._clock() + seconds
        while begun.token_count < token_count:
            end = cut_length if begun.token_count < cut_length else token_count
            count = min(end - begun.token_count, self._fitting(deadline - self._clock()))
            begun.take(self._copy(begun.sequence_id, block_start + begun.token_count, count, begun.rest), count)
            if begun.token_count == cut_length:
                begun.cut = (cut_length, len(begun.data))
            if begun.token_count < end or self._clock() >= deadline:
                break
        return begun.token_count == token_count

    def can_save_block(self, seconds: float) -> bool:
        """Whether a whole block can probably be saved in a time."""
        return self._fitting(seconds) >= BLOCK_TOKENS

    def restore(self, sequence_id: int, block: Block, piece: StoredPiece) -> None:
        """Appends a block's positions to a sequence. Raises `StateLost`."""
        started = self._clock()
        self._memory.restore(sequence_id, block.data, piece.start, piece.end)
        self.restore_rate.observe(len(block.tokens), self._clock() - started)

    def _copy(self, sequence_id: int, start: int, count: int, room: NDArray[np.uint8]) -> NDArray[np.uint8]:
        started = self._clock()
        data = self._memory.save(sequence_id, start, start + count, room=room)
        self._save_rate.observe(count, self._clock() - started)
        self._bytes_per_token = max(self._bytes_per_token, len(data) / count)
        return data

    def _fitting(self, seconds: float) -> int:
        """Tokens whose state can be copied in a time; at least a few, so that it ends."""
        if math.isinf(seconds):
            return BLOCK_TOKENS
        if (rate := self._save_rate.per_second) is None:
            return _FIRST_TOKENS
        return max(_FEWEST_TOKENS, min(BLOCK_TOKENS, int(rate * seconds)))

    def _begun_of(self, sequence_id: int, name: bytes) -> _Begun | None:
        begun = self._begun
        return begun if begun and (begun.sequence_id, begun.name) == (sequence_id, name) else None

    def _forget(self, begun: _Begun | None) -> None:
        if begun is self._begun:
            self._begun = None

    def _is_covered(self, name: bytes, parent: bytes, tokens: "NDArray[np.int32]") -> bool:
        if self.store.contains(name):
            return True
        if len(tokens) == BLOCK_TOKENS:
            return False
        return any(shared_token_count(tokens, known) == len(tokens) for _, known in self.store.children(parent))
