"""KV blocks in host memory, under a byte budget."""

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from services.shared.reuse import expected_reuse
from services.worker.blocks import Block, Tokens, shared_token_count


@dataclass
class _Kept:
    block: Block
    last_used_at: float
    use_count: int = 0


def value_per_byte(block: Block, use_count: int, idle_seconds: float) -> float:
    """Says what a block is worth to keep: seconds that it will probably save, per byte."""
    return block.recompute_seconds * expected_reuse(use_count, idle_seconds) / max(1, block.data.nbytes)


class RamTier:
    """A `BlockStore` in memory, used by the engine's thread and by whoever fills it from the tiers below.

    A block whose children are stored is worth at least what they are, so only blocks without children are dropped.
    """

    def __init__(self, budget_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget_bytes = budget_bytes
        self._clock = clock
        self._kept: dict[bytes, _Kept] = {}
        self._children: dict[bytes, set[bytes]] = {}
        self._used_bytes = 0
        self._guard = threading.RLock()
        self.on_put: Callable[[Block], None] | None = None
        """Told of each block that the engine puts here."""
        self.expected_uses: Callable[[bytes], float] = lambda _hash: 1.0
        """How often a block will probably be used, beside what its own uses say."""
        self.cut_length: Callable[[bytes, Tokens], int] = lambda _parent, _tokens: 0
        """Behind how many tokens the state of a block should be such that it can be taken apart."""

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def used_bytes(self) -> int:
        """Bytes of all blocks."""
        return self._used_bytes

    def contains(self, block_hash: bytes) -> bool:
        """Whether a block is here."""
        return block_hash in self._kept

    def peek(self, block_hash: bytes) -> Block | None:
        """Reads a block without counting that as a use."""
        kept = self._kept.get(block_hash)
        return kept.block if kept else None

    def get(self, block_hash: bytes) -> Block | None:
        """Reads a block and counts the use."""
        with self._guard:
            kept = self._kept.get(block_hash)
            if kept is None:
                return None
            kept.use_count += 1
            kept.last_used_at = self._clock()
            return kept.block

    def put(self, block: Block) -> None:
        """Keeps a block that the engine has saved."""
        if self.keep(block) and self.on_put:
            self.on_put(block)

    def keep(self, block: Block) -> bool:
        """Keeps a block, dropping the least valuable ones; partial blocks that it continues become superfluous."""
        return self._keep(block, most_dropped_value=math.inf)

    def offer(self, block: Block) -> bool:
        """Keeps a block that nobody waits for, if there is room or what must go for it is worth less."""
        return self._keep(block, most_dropped_value=self._value(_Kept(block, self._clock())))

    def _keep(self, block: Block, *, most_dropped_value: float) -> bool:
        with self._guard:
            if block.hash in self._kept or block.data.nbytes > self.budget_bytes:
                return False
            use_count = self._absorb_beginnings(block)
            while self._used_bytes + block.data.nbytes > self.budget_bytes:
                victim = self._least_valuable(except_hash=block.parent)
                if victim is None or self._value(victim) >= most_dropped_value:
                    return False
                self.discard(victim.block.hash)
            self._kept[block.hash] = _Kept(block, self._clock(), use_count)
            self._children.setdefault(block.parent, set()).add(block.hash)
            self._used_bytes += block.data.nbytes
            return True

    def children(self, parent: bytes) -> Iterable[tuple[bytes, Tokens]]:
        """Lists the blocks that follow a parent."""
        with self._guard:
            return [(name, self._kept[name].block.tokens) for name in self._children.get(parent, ())]

    def clear(self) -> None:
        """Drops all blocks."""
        with self._guard:
            self._kept.clear()
            self._children.clear()
            self._used_bytes = 0

    def discard(self, block_hash: bytes) -> None:
        """Drops a block; blocks that follow it stay, and may get their parent back."""
        with self._guard:
            kept = self._kept.pop(block_hash, None)
            if kept is None:
                return
            self._used_bytes -= kept.block.data.nbytes
            siblings = self._children[kept.block.parent]
            siblings.discard(block_hash)
            if not siblings:
                del self._children[kept.block.parent]

    def _absorb_beginnings(self, block: Block) -> int:
        """Drops siblings that are a beginning of a new block; it inherits their uses.

        The state of a whole sequence has no beginning that could be taken from it.
        """
        use_count = 0
        if block.is_whole:
            return use_count
        for name, tokens in self.children(block.parent):
            if len(tokens) < len(block.tokens) and shared_token_count(tokens, block.tokens) == len(tokens):
                use_count = max(use_count, self._kept[name].use_count)
                self.discard(name)
        return use_count

    def _least_valuable(self, *, except_hash: bytes) -> _Kept | None:
        leaves = (kept for name, kept in self._kept.items() if name not in self._children and name != except_hash)
        return min(leaves, key=lambda kept: (self._value(kept), kept.last_used_at), default=None)

    def _value(self, kept: _Kept) -> float:
        value = value_per_byte(kept.block, kept.use_count, self._clock() - kept.last_used_at)
        return value * self.expected_uses(kept.block.hash)
