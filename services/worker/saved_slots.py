"""Saves what slots hold under names, brings it back, and drops it: llama-server's slot operations on the block store.

Nothing is copied for a name: it means the last block of a conversation, which the store keeps, and all before it, as
long as the name means it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

import numpy as np
from grpc.aio import AioRpcError

from services.shared.block_client import OpenedBlock, StoredChain
from services.shared.errors import InvalidRequest, NameNotFound, StoreUnavailable
from services.shared.names import checked_name
from services.shared.sealing import BlockHeader, Buffer
from services.worker.blocks import BLOCK_TOKENS, Block, HashedTokens, Tokens, stored_pieces
from services.worker.engine import Engine
from services.worker.kv_pool import KvPool
from services.worker.ram_tier import RamTier
from services.worker.stored_blocks import read_block

_IDLE_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.05
_STEP_SECONDS: Final = 60.0
T = TypeVar("T")


class NamedArchive(Protocol):
    """The store of blocks with names (`BlockClient`)."""

    async def lookup(self, hashes: Sequence[bytes], *, peek: bool = False) -> StoredChain:
        """Finds the longest stored beginning of a chain."""
        ...

    async def get(self, block_hash: bytes) -> OpenedBlock | None:
        """Reads a block."""
        ...

    async def get_header(self, block_hash: bytes) -> BlockHeader | None:
        """Reads what a block holds."""
        ...

    async def put(self, block_hash: bytes, header: BlockHeader, state: Buffer) -> bool:
        """Stores a block."""
        ...

    async def name(self, name: str, block_hash: bytes) -> bool:
        """Gives a stored block a name and pins it."""
        ...

    async def named(self, name: str) -> bytes | None:
        """The block that has a name. Raises `AioRpcError` where the store does not answer."""
        ...


@dataclass(frozen=True)
class Moved:
    """What an operation has moved."""

    token_count: int
    size_bytes: int
    seconds: float


class SavedSlots:
    """Operates on the slots of one engine."""

    def __init__(
        self, engine: Engine, pool: KvPool, ram: RamTier, archive: NamedArchive, *, fingerprint: bytes
    ) -> None:
        self._engine, self._pool, self._ram, self._archive = engine, pool, ram, archive
        self._fingerprint = fingerprint

    async def save(self, slot_id: int, name: str) -> Moved:
        """Stores what a slot holds and gives it a name."""
        started = time.monotonic()
        checked_name(name)
        tokens = await self._idle(slot_id)
        if tokens is None or not len(tokens):
            raise InvalidRequest(f"Slot {slot_id} holds nothing that could be saved.", param="id_slot")
        while await self._on_engine(partial(self._pool.save_next, slot_id)):
            pass
        last, count, size_bytes = await self._store(await self._hashed(tokens))
        if not count:
            raise InvalidRequest(f"The state of slot {slot_id} is kept nowhere any more.", param="id_slot")
        if not await self._archive.name(name, last):
            raise StoreUnavailable("The KV store did not take the name; its log says why.", retry_after_seconds=5)
        return Moved(count, size_bytes, time.monotonic() - started)

    async def restore(self, slot_id: int, name: str) -> Moved:
        """Brings what has a name into host memory; the slot then stands for it."""
        started = time.monotonic()
        checked_name(name)
        await self._idle(slot_id)
        chain = await self._chain(name)
        size_bytes, known = 0, [np.empty(0, np.int32)]
        for block_hash in chain:
            block = self._ram.get(block_hash) or await self._bring(block_hash)
            if block is None:
                break
            known.append(block.tokens)
            size_bytes += block.data.nbytes
        tokens = np.concatenate(known)
        if not len(tokens):
            raise StoreUnavailable(f"What is saved as {name!r} can't be read, or memory has no room for it.")
        await self._on_engine(partial(self._engine.slots.restore, slot_id, tokens, name))
        return Moved(len(tokens), size_bytes, time.monotonic() - started)

    async def erase(self, slot_id: int) -> int:
        """Drops what a slot holds from cells and host memory; how many tokens that were."""
        tokens = await self._idle(slot_id)

        def drop() -> None:
            self._pool.erase(slot_id)
            self._engine.slots.clear(slot_id)

        await self._on_engine(drop)
        if tokens is None:
            return 0
        self._forget(await self._hashed(tokens))
        return len(tokens)

    async def _hashed(self, tokens: Tokens) -> HashedTokens:
        return await asyncio.to_thread(HashedTokens, tokens.tolist(), self._fingerprint)

    def _forget(self, known: HashedTokens) -> None:
        """Drops blocks from memory, from the end, as far as no other conversation goes on from them."""
        for index in reversed(range(known.block_count)):
            if any(True for _ in self._ram.children(known.hash(index))):
                return
            self._ram.discard(known.hash(index))

    async def _store(self, known: HashedTokens) -> tuple[bytes, int, int]:
        """Writes the blocks of a conversation that are not stored; its last block, and tokens and bytes of all."""
        hashes = [known.hash(index) for index in range(known.block_count)]
        chain = await self._archive.lookup(hashes, peek=True)
        stored_count = len(chain.hashes)
        count, size_bytes = min(stored_count * BLOCK_TOKENS, len(known)), chain.size_bytes
        last = chain.hashes[-1] if chain.hashes else b""
        for piece in stored_pieces(known, self._ram, start=count, limit=len(known)):
            block = self._ram.get(piece.hash)
            if block is None or not await self._archive.put(block.hash, _header(block), block.data.data):
                break
            last, count, size_bytes = block.hash, piece.end, size_bytes + block.data.nbytes
        return last, count, size_bytes

    async def _chain(self, name: str) -> list[bytes]:
        """The blocks that a name means, first one first."""
        try:
            last = await self._archive.named(name)
        except AioRpcError as error:
            raise StoreUnavailable("The KV store does not answer.", retry_after_seconds=5) from error
        if last is None:
            raise NameNotFound(f"Nothing of this model is saved under the name {name!r}.", param="filename")
        chain: list[bytes] = []
        most = self._pool.cell_count // BLOCK_TOKENS + 2
        while last != self._fingerprint:
            header = await self._archive.get_header(last)
            if header is None or len(chain) > most:
                raise StoreUnavailable(f"What is saved as {name!r} is not whole any more.")
            chain.append(last)
            last = header.parent
        return chain[::-1]

    async def _bring(self, block_hash: bytes) -> Block | None:
        block = await read_block(self._archive.get, block_hash)
        if block is None:
            return None
        return block if self._ram.keep(block) or self._ram.contains(block_hash) else None

    async def _idle(self, slot_id: int) -> Tokens | None:
        """Waits until no request runs in a slot; the conversation that it stands for."""
        if slot_id >= len(self._engine.slots):
            most = len(self._engine.slots) - 1
            raise InvalidRequest(f"There is no slot {slot_id}; they are 0 to {most}.", param="id_slot")
        deadline = time.monotonic() + _IDLE_SECONDS
        while time.monotonic() < deadline:
            states, tokens = await self._on_engine(
                lambda: (self._engine.slot_states(), self._engine.slots.tokens(slot_id))
            )
            if not states[slot_id].is_processing:
                return tokens
            await asyncio.sleep(_LOOK_SECONDS)
        raise StoreUnavailable(f"Slot {slot_id} is still answering a request.", retry_after_seconds=5)

    async def _on_engine(self, work: Callable[[], T]) -> T:
        """Lets the engine's thread work between two steps: one block at a time, so that no stream waits for more."""
        return await asyncio.wait_for(asyncio.wrap_future(self._engine.call(work)), _STEP_SECONDS)


def _header(block: Block) -> BlockHeader:
    tokens = block.tokens.astype("<i4", copy=False).tobytes()
    return BlockHeader(block.parent, tokens, block.recompute_seconds)
