"""Where tools and system text end within a block: what lies before is shared, what follows is each conversation's own.

A block that holds such an end is stored in two pieces, the shared one as a block of its own, so that however many
conversations begin with one prompt, the store holds all of that once.
"""

from collections import OrderedDict
from typing import Final

from services.worker.blocks import BLOCK_TOKENS, Block, Tokens, block_hash, shared_token_count

_MOST_PARENTS: Final = 1024
_MOST_ENDS: Final = 8
"""Of one parent: prompts that differ only behind it."""
FEWEST_TOKENS: Final = 32
"""A shorter piece costs more as a file of its own than as a part of some others."""


class SharedEnds:
    """The ends that prompts have named, by the block before them; those not named for longest are forgotten.

    Reading is safe from any thread.
    """

    def __init__(self) -> None:
        self._ends: OrderedDict[bytes, tuple[Tokens, ...]] = OrderedDict()

    def note(self, parent: bytes, tokens: Tokens) -> bytes | None:
        """Takes note of the last tokens of a system text, behind the full blocks before; the name of such a block."""
        if not FEWEST_TOKENS <= len(tokens) < BLOCK_TOKENS:
            return None
        known = self._ends.pop(parent, ())
        others = tuple(end for end in known if len(end) != len(tokens) or (end != tokens).any())
        self._ends[parent] = (tokens, *others[: _MOST_ENDS - 1])
        if len(self._ends) > _MOST_PARENTS:
            self._ends.popitem(last=False)
        return block_hash(parent, tokens)

    def length(self, parent: bytes, tokens: Tokens) -> int:
        """How many of a block's first tokens are such an end, if the block goes on behind it; 0 if none are."""
        ends = (end for end in self._ends.get(parent, ()) if len(end) < len(tokens))
        return max((len(end) for end in ends if shared_token_count(end, tokens) == len(end)), default=0)


def shared_piece(block: Block) -> Block | None:
    """The piece of a block that holds the end of a system text, where its state can be taken apart there."""
    if block.cut is None:
        return None
    count, size_bytes = block.cut
    tokens = block.tokens[:count]
    seconds = block.recompute_seconds * count / len(block.tokens)
    return Block(block_hash(block.parent, tokens), block.parent, tokens, block.data[:size_bytes], seconds)
