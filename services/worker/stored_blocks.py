"""Makes one block of what the store holds in pieces."""

from collections.abc import Awaitable, Callable

import numpy as np

from services.shared.block_client import OpenedBlock
from services.worker.blocks import Block


async def read_block(get: Callable[[bytes], Awaitable[OpenedBlock | None]], name: bytes) -> Block | None:
    """Reads a block, with the piece that it shares with others if there is one; None if any of it can't be read."""
    opened = await get(name)
    if opened is None:
        return None
    header = opened.header
    tokens = np.frombuffer(header.tokens, dtype="<i4").astype(np.int32)
    data = np.frombuffer(opened.state, dtype=np.uint8)
    cut = None
    if header.base:
        base = await get(header.base)
        if base is None:
            return None
        beginning = np.frombuffer(base.state, dtype=np.uint8)
        data, cut = np.concatenate([beginning, data]), (base.header.token_count, len(beginning))
    return Block(name, header.parent, tokens, data, header.recompute_seconds, cut, header.is_whole)
