"""States of whole sequences, for models whose memory can't be cut: recurrent ones and hybrids.

A state is kept like a block behind a place: the full blocks before those of its tokens that are left. Where in a prompt
a state ends is not known beforehand, but the places behind which it may are.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from services.worker.blocks import BLOCK_TOKENS, Block, BlockStore, HashedTokens, block_hash, shared_token_count

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


def places(wanted: HashedTokens) -> list[bytes]:
    """Names the places of a prompt behind which a state may end that the prompt goes on from, first one first."""
    return [_place(wanted, index) for index in range(-(-(len(wanted) - 1) // BLOCK_TOKENS))]


def state_name(known: HashedTokens, length: int) -> bytes:
    """Names the state of the first tokens of a sequence, at least one."""
    index = (length - 1) // BLOCK_TOKENS
    return block_hash(_place(known, index), known.tokens[index * BLOCK_TOKENS : length])


def longest_named(wanted: HashedTokens, found: Iterable[tuple[bytes, int]]) -> Checkpoint | None:
    """Of states by name and length, picks the longest that begins a prompt; at least one token is left to compute."""
    states = (Checkpoint(name, length) for name, length in found if 0 < length < len(wanted))
    fitting = [state for state in states if state_name(wanted, state.length) == state.hash]
    return max(fitting, key=lambda state: state.length, default=None)


def longest_state(wanted: HashedTokens, store: BlockStore) -> Checkpoint | None:
    """Finds the longest state in a store that begins a prompt; at least one token is left to compute."""
    beginning = wanted.tokens[:-1]
    for place in reversed(places(wanted)):
        fitting = [
            Checkpoint(name, len(tokens))
            for name, tokens in store.children(place)
            if shared_token_count(tokens, beginning) == len(tokens)
        ]
        if fitting:
            return max(fitting, key=lambda state: state.length)
    return None


class Checkpoints:
    """Saves states of sequences at points where prompts may go on, and finds the longest that begins a prompt."""

    def __init__(self, memory: WholeStateMemory, store: BlockStore) -> None:
        self._memory, self._store = memory, store

    def save(self, sequence_id: int, known: HashedTokens, *, prefill_rate: float) -> None:
        """Keeps the state of a sequence that holds exactly these tokens. Raises `StateLost`."""
        if len(known) < _MIN_TOKENS or self._store.contains(name := state_name(known, len(known))):
            return
        data = self._memory.save_whole(sequence_id)
        place, seconds = _place(known, known.block_count - 1), len(known) / max(prefill_rate, 1.0)
        self._store.put(Block(name, place, known.tokens.copy(), data, seconds, is_whole=True))

    def longest(self, wanted: HashedTokens) -> Checkpoint | None:
        """Finds the longest state that a prompt begins with."""
        return longest_state(wanted, self._store)

    def restore(self, sequence_id: int, checkpoint: Checkpoint) -> None:
        """Makes a sequence from a state. Raises `StateLost`; `KeyError` if the state is no longer stored."""
        block = self._store.get(checkpoint.hash)
        if block is None:
            raise KeyError(checkpoint.hash)
        self._memory.restore_whole(sequence_id, block.data)


def _place(known: HashedTokens, index: int) -> bytes:
    """No block has this name, so a state may end where a block does without being taken for the one before another."""
    return hashlib.sha256(b"whole sequence" + known.parent(index)).digest()
