"""States of whole sequences, for models whose memory can't be cut: recurrent ones and hybrids."""

import hashlib
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from services.worker.blocks import Block, BlockStore, HashedTokens
from services.worker.radix import RadixTree

_MIN_TOKENS: Final = 16


class WholeStateMemory(Protocol):
    """The part of the KV memory that copies whole sequences out and in."""

    def save_whole(self, sequence_id: int) -> NDArray[np.uint8]:
        """Copies the state of a sequence out, or raises `StateLost`."""
        ...

    def restore_whole(self, sequence_id: int, data: NDArray[np.uint8]) -> None:
        """Replaces a sequence by a saved one, or raises `StateLost`."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A stored state, and how many tokens it stands for."""

    hash: bytes
    length: int


class Checkpoints:
    """Saves states of sequences at points where prompts may go on, and finds the longest that begins a prompt."""

    def __init__(self, memory: WholeStateMemory, store: BlockStore) -> None:
        self._memory, self._store = memory, store
        self._tree = RadixTree()
        self._known: dict[int, Checkpoint] = {}
        self._count = 0

    def save(self, sequence_id: int, known: HashedTokens, *, prefill_rate: float) -> None:
        """Keeps the state of a sequence that holds exactly these tokens. Raises `StateLost`."""
        name = _name(known)
        if len(known) < _MIN_TOKENS or self._store.contains(name):
            return
        data = self._memory.save_whole(sequence_id)
        # Each is its own parent's only child: a shorter state is no part of a longer one.
        self._store.put(Block(name, name, known.tokens.copy(), data, len(known) / max(prefill_rate, 1.0)))
        self._count += 1
        self._known[self._count] = Checkpoint(name, len(known))
        self._tree.append(self._count, known.tokens)

    def longest(self, wanted: HashedTokens) -> Checkpoint | None:
        """Finds the longest state that a prompt begins with; at least one token is left to compute."""
        best: Checkpoint | None = None
        for key in self._tree.beginnings(wanted.tokens[:-1]):
            found = self._known[key]
            if not self._store.contains(found.hash):
                self._tree.remove(key)
                del self._known[key]
            elif best is None or found.length > best.length:
                best = found
        return best

    def restore(self, sequence_id: int, checkpoint: Checkpoint) -> None:
        """Makes a sequence from a state. Raises `StateLost`; `KeyError` if the state is no longer stored."""
        block = self._store.get(checkpoint.hash)
        if block is None:
            raise KeyError(checkpoint.hash)
        self._memory.restore_whole(sequence_id, block.data)


def _name(known: HashedTokens) -> bytes:
    last = known.block_count - 1
    return hashlib.sha256(b"whole sequence" + known.hash(last)).digest()
