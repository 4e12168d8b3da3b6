"""KV state as blocks of 256 tokens, named by what they hold and everything before it: pure."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from services.shared import sealing

BLOCK_TOKENS: Final = sealing.BLOCK_TOKENS
Tokens = NDArray[np.int32]


def as_tokens(ids: Sequence[int]) -> Tokens:
    """Copies token ids to an array."""
    return np.array(ids, dtype=np.int32)


def block_hash(parent: bytes, tokens: Tokens) -> bytes:
    """Names a block by its parent's hash and its own tokens (int32, little-endian)."""
    return hashlib.sha256(parent + tokens.astype("<i4", copy=False).tobytes()).digest()


def block_hashes(tokens: Tokens, fingerprint: bytes) -> list[bytes]:
    """Hashes each full block of a sequence, chained from the fingerprint: equal hashes mean equal prefixes."""
    hashes: list[bytes] = []
    parent = fingerprint
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        parent = block_hash(parent, tokens[start : start + BLOCK_TOKENS])
        hashes.append(parent)
    return hashes


def shared_token_count(left: Tokens, right: Tokens) -> int:
    """Counts the tokens that two arrays have in common at their beginning."""
    count = min(len(left), len(right))
    differs = left[:count] != right[:count]
    first = int(differs.argmax()) if count else 0
    return first if count and differs[first] else count


class HashedTokens:
    """The tokens of a sequence with the hashes of its blocks."""

    def __init__(self, ids: Sequence[int], fingerprint: bytes) -> None:
        self.tokens = as_tokens(ids)
        self._fingerprint = fingerprint
        self._hashes = block_hashes(self.tokens, fingerprint)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def block_count(self) -> int:
        """Blocks, a last partial one included."""
        return -(-len(self.tokens) // BLOCK_TOKENS)

    def parent(self, index: int) -> bytes:
        """The hash of the block before one."""
        return self._hashes[index - 1] if index else self._fingerprint

    def hash(self, index: int) -> bytes:
        """The hash of a block, also of the last partial one."""
        if index < len(self._hashes):
            return self._hashes[index]
        return block_hash(self.parent(index), self.block(index))

    def block(self, index: int) -> Tokens:
        """The tokens of a block."""
        return self.tokens[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS]

    def truncated(self, length: int) -> "HashedTokens":
        """The first tokens of the sequence, sharing what is known of them."""
        first = object.__new__(HashedTokens)
        first.tokens, first._fingerprint = self.tokens[:length], self._fingerprint
        first._hashes = self._hashes[: length // BLOCK_TOKENS]
        return first


@dataclass(frozen=True)
class Block:
    """The KV state of at most 256 consecutive tokens that follow those of the parent, or of a whole sequence."""

    hash: bytes
    parent: bytes
    tokens: Tokens
    data: NDArray[np.uint8]
    recompute_seconds: float
    """What computing these tokens again would take."""
    cut: tuple[int, int] | None = None
    """Where the state can be taken apart, if it can: behind how many tokens, and behind how many bytes."""
    is_whole: bool = False
    """Whether it is the state of a whole sequence, all of whose tokens these are (`checkpoints.py`)."""


class BlockStore(Protocol):
    """A tier that keeps blocks outside of the KV cache: host memory, and what may lie below it."""

    def contains(self, block_hash: bytes) -> bool:
        """Whether a block is there."""
        ...

    def get(self, block_hash: bytes) -> Block | None:
        """Reads a block; None if it is not there."""
        ...

    def put(self, block: Block) -> None:
        """Keeps a block, as far as the tier's budget allows."""
        ...

    def children(self, parent: bytes) -> Iterable[tuple[bytes, Tokens]]:
        """Lists the blocks that follow a parent, full and partial: hash and tokens of each."""
        ...

    def cut_length(self, parent: bytes, tokens: Tokens) -> int:
        """Behind how many tokens the state of a block should be such that it can be taken apart; 0: nowhere."""
        ...


@dataclass(frozen=True)
class StoredPiece:
    """Positions of a prompt whose state a stored block holds; the block begins at `block_start`."""

    hash: bytes
    block_start: int
    start: int
    end: int


def stored_pieces(wanted: HashedTokens, store: BlockStore, *, start: int, limit: int) -> list[StoredPiece]:
    """Finds the blocks that continue a prompt from a position on, at most up to a limit, without a gap.

    The last one may match only in part.
    """
    pieces: list[StoredPiece] = []
    index = start // BLOCK_TOKENS
    while start < limit:
        block_start = index * BLOCK_TOKENS
        block = wanted.block(index)
        name, count = wanted.hash(index), len(block)
        if not store.contains(name):
            name, count = _best_child(store, wanted.parent(index), block)
        end = min(block_start + count, limit)
        if end <= start:
            break
        pieces.append(StoredPiece(name, block_start, start, end))
        if count < BLOCK_TOKENS:
            break
        start, index = end, index + 1
    return pieces


def _best_child(store: BlockStore, parent: bytes, tokens: Tokens) -> tuple[bytes, int]:
    best = (b"", 0)
    for name, known in store.children(parent):
        count = shared_token_count(tokens, known)
        if count > best[1]:
            best = (name, count)
    return best
