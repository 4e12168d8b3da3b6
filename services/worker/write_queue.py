"""Blocks that wait to be written to the store, the most urgent first, none before the one that it follows."""

from collections.abc import Callable
from typing import Any

from services.worker.blocks import Block


class WriteQueue:
    """A bounded queue whose order is asked for anew each time, because what is known of a block changes."""

    def __init__(self, most_bytes: int, urgency: Callable[[Block], Any]) -> None:
        self._most_bytes = most_bytes
        self._urgency = urgency
        self._blocks: dict[bytes, Block] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block_hash: object) -> bool:
        return block_hash in self._blocks

    @property
    def fill(self) -> float:
        """How full it is, from 0 to 1."""
        return self._bytes / self._most_bytes if self._most_bytes else 1.0

    def add(self, block: Block) -> list[Block]:
        """Adds a block and returns those that had to go for it, the least urgent ones."""
        self.remove(block.hash)
        self._blocks[block.hash] = block
        self._bytes += block.data.nbytes
        dropped = []
        while self._bytes > self._most_bytes:
            victim = min(self._leaves(), key=self._urgency)
            self.remove(victim.hash)
            dropped.append(victim)
        return dropped

    def next(self) -> Block | None:
        """The block to write now; it stays in the queue."""
        if not self._blocks:
            return None
        block = max(self._blocks.values(), key=self._urgency)
        while before := self._blocks.get(block.parent):
            block = before
        return block

    def remove(self, block_hash: bytes) -> None:
        """Takes a block out, if it is there."""
        if block := self._blocks.pop(block_hash, None):
            self._bytes -= block.data.nbytes

    def _leaves(self) -> list[Block]:
        parents = {block.parent for block in self._blocks.values()}
        return [block for block in self._blocks.values() if block.hash not in parents]
