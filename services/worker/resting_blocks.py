"""The last blocks of conversations, until they have come to rest: those that go on leave useless ones behind."""

from collections.abc import Callable, Iterator

from services.worker.blocks import Block, shared_token_count


class RestingBlocks:
    """Keeps of each conversation the latest partial block, or the latest states of the whole sequence."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._blocks: dict[bytes, tuple[float, Block]] = {}
        """With the time when it came; by parent, a state of a whole sequence by name. The newest come last."""

    def drop_beginnings(self, state: Block, *, is_kept: Callable[[bytes], bool]) -> None:
        """Drops the states that one of a whole sequence continues, but for those to be kept."""
        for key, (_, other) in list(self._blocks.items()):
            if shared_token_count(other.tokens, state.tokens) == len(other.tokens) and not is_kept(other.hash):
                del self._blocks[key]

    def add(self, block: Block, *, now: float) -> list[Block]:
        """Takes a block, a partial one instead of that behind the same parent; returns the oldest if they had to go."""
        key = _key(block)
        self._blocks.pop(key, None)
        self._blocks[key] = (now, block)
        dropped = []
        while sum(one.data.nbytes for _, one in self._blocks.values()) > self._most_bytes:
            _, victim = self._blocks.pop(next(iter(self._blocks)))
            dropped.append(victim)
        return dropped

    def drop_behind(self, parent: bytes) -> None:
        """Drops the partial block behind another one."""
        self._blocks.pop(parent, None)

    def drop(self, block: Block) -> None:
        """Drops a block unless a later one has taken its place."""
        if self.is_latest(block):
            del self._blocks[_key(block)]

    def is_latest(self, block: Block) -> bool:
        """Whether nothing has taken a block's place."""
        return self._blocks.get(_key(block), (0.0, None))[1] is block

    def rested(self, *, now: float) -> Iterator[tuple[float, Block]]:
        """The blocks that are here now, each with the seconds since it came."""
        for since, block in list(self._blocks.values()):
            yield now - since, block


def _key(block: Block) -> bytes:
    return block.hash if block.is_whole else block.parent
