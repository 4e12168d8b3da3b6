"""Moves KV state between cells and a block store, and knows how fast that goes."""

import time
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from services.worker.blocks import BLOCK_TOKENS, Block, BlockStore, HashedTokens, StoredPiece, shared_token_count

_WEIGHT_OF_NEW: Final = 0.25


class StateMemory(Protocol):
    """The part of the KV memory that copies state out and in."""

    def save(self, sequence_id: int, start: int, end: int) -> NDArray[np.uint8]:
        """Copies the state of some positions out, or raises `StateLost`."""
        ...

    def restore(self, sequence_id: int, data: NDArray[np.uint8], start: int, end: int) -> None:
        """Puts saved positions behind those of a sequence, or raises `StateLost`."""
        ...


class BlockMover:
    """Saves blocks of sequences and restores them."""

    def __init__(self, memory: StateMemory, store: BlockStore) -> None:
        self._memory, self.store = memory, store
        self._restore_rate: float | None = None

    def save(self, sequence_id: int, known: HashedTokens, index: int, *, prefill_rate: float) -> bool:
        """Saves one block unless the store has it; says whether bytes were moved. Raises `StateLost`."""
        tokens, parent, name = known.block(index), known.parent(index), known.hash(index)
        if self._is_covered(name, parent, tokens):
            return False
        start = index * BLOCK_TOKENS
        data = self._memory.save(sequence_id, start, start + len(tokens))
        self.store.put(Block(name, parent, tokens.copy(), data, len(tokens) / max(prefill_rate, 1.0)))
        return True

    def restore(self, sequence_id: int, block: Block, piece: StoredPiece) -> None:
        """Appends a block's positions to a sequence. Raises `StateLost`."""
        started = time.perf_counter()
        self._memory.restore(sequence_id, block.data, piece.start, piece.end)
        rate = len(block.tokens) / max(time.perf_counter() - started, 1e-9)
        known = self._restore_rate
        self._restore_rate = rate if known is None else known + _WEIGHT_OF_NEW * (rate - known)

    def is_faster_than(self, prefill_rate: float) -> bool:
        """Whether restoring beats computing; it is tried where nothing is known yet."""
        return self._restore_rate is None or self._restore_rate > prefill_rate

    def _is_covered(self, name: bytes, parent: bytes, tokens: "NDArray[np.int32]") -> bool:
        if self.store.contains(name):
            return True
        if len(tokens) == BLOCK_TOKENS:
            return False
        return any(shared_token_count(tokens, known) == len(tokens) for _, known in self.store.children(parent))
