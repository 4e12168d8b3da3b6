"""The tiers below host memory: KV blocks in the store of the cache service, which outlive this process.

What the engine gives to host memory is written behind its back, full blocks at once, the partial one at a sequence's
end only after some quiet, because the next turn makes it superfluous. Before a request is queued, what the store holds
of its prompt is brought into host memory, from where the engine restores it like everything else.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

import numpy as np
import structlog

from services.shared.block_client import OpenedBlock, StoredChain
from services.shared.sealing import BlockHeader, Buffer
from services.worker.blocks import BLOCK_TOKENS, Block, HashedTokens
from services.worker.ram_tier import RamTier

_QUIET_SECONDS: Final = 5.0
_MOST_WAITING: Final = 1024
_MOST_BRANCHES: Final = 4  # blocks behind the longest stored beginning that are looked into for a partial match
_SHORTEST_TAIL: Final = 32  # tokens; fewer are computed sooner than they are written
_WEIGHT_OF_NEW: Final = 0.25
_log = structlog.get_logger(__name__)


class BlockArchive(Protocol):
    """The store of blocks (`BlockClient`). Nothing in it raises: what fails is a miss."""

    async def lookup(self, hashes: Sequence[bytes], *, peek: bool = False) -> StoredChain:
        """Finds the longest stored beginning of a chain."""
        ...

    async def release(self, chain: StoredChain, *, used: Sequence[bytes] = ()) -> None:
        """Ends the lease of a lookup."""
        ...

    async def get(self, block_hash: bytes) -> OpenedBlock | None:
        """Reads a block."""
        ...

    async def put(self, block_hash: bytes, header: BlockHeader, state: Buffer) -> bool:
        """Stores a block."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether blocks come through the cache service."""
        ...


class StoredTier:
    """Moves blocks between host memory and the store, on the event loop; never in the engine's way."""

    def __init__(self, ram: RamTier, archive: BlockArchive, *, fingerprint: bytes) -> None:
        self._ram, self._archive, self._fingerprint = ram, archive, fingerprint
        self._waiting: asyncio.Queue[Block] = asyncio.Queue(_MOST_WAITING)
        self._tails: dict[bytes, tuple[float, Block]] = {}
        """By parent: the latest partial block behind it, and when it came."""
        self._fetch_rate: float | None = None
        self._loop = asyncio.get_running_loop()
        self._tasks = [asyncio.create_task(self._write_full()), asyncio.create_task(self._write_tails())]
        ram.on_put = self._note_put

    async def close(self) -> None:
        """Writes what is waiting, then ends."""
        self._ram.on_put = None
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        while not self._waiting.empty():
            await self._write(self._waiting.get_nowait())
        for _, block in self._tails.values():
            await self._write(block)

    @property
    def is_remote(self) -> bool:
        """Whether stored blocks come through the cache service instead of from a directory."""
        return self._archive.is_remote

    async def fetch(self, tokens: Sequence[int], *, prefill_rate: float) -> int:
        """Brings into host memory what is stored of a prompt and not there; returns how many tokens that was."""
        if self._fetch_rate is not None and self._fetch_rate < prefill_rate:
            self._fetch_rate *= 1 + _WEIGHT_OF_NEW  # tried again some time: disks and networks recover
            return 0
        wanted = await asyncio.to_thread(HashedTokens, tokens, self._fingerprint)
        hashes = [wanted.hash(index) for index in range((len(wanted) - 1) // BLOCK_TOKENS)]
        known = next((index for index, name in enumerate(hashes) if not self._ram.contains(name)), len(hashes))
        if known == len(hashes) and self._ram.contains(wanted.hash(known)):
            return 0
        chain = await self._archive.lookup(hashes)
        started = time.monotonic()
        names = list(chain.hashes[known:])
        used = [block.hash for block in chain.next[:_MOST_BRANCHES] if not self._ram.contains(block.hash)]
        count = await self._read([*names, *used])
        await self._archive.release(chain, used=used)
        if count:
            self._note_rate(count / max(time.monotonic() - started, 1e-6))
        return count

    async def _read(self, names: Sequence[bytes]) -> int:
        count = 0
        for found in asyncio.as_completed([self._read_one(name) for name in names]):
            count += await found
        return count

    async def _read_one(self, name: bytes) -> int:
        opened = await self._archive.get(name)
        if opened is None:
            return 0
        header = opened.header
        tokens = np.frombuffer(header.tokens, dtype="<i4").astype(np.int32)
        data = np.frombuffer(opened.state, dtype=np.uint8)
        self._ram.keep(Block(name, header.parent, tokens, data, header.recompute_seconds))
        return len(tokens)

    def _note_rate(self, rate: float) -> None:
        known = self._fetch_rate
        self._fetch_rate = rate if known is None else known + _WEIGHT_OF_NEW * (rate - known)

    def _note_put(self, block: Block) -> None:
        """Called by the engine thread."""
        self._loop.call_soon_threadsafe(self._take, block)

    def _take(self, block: Block) -> None:
        if len(block.tokens) < BLOCK_TOKENS:
            if len(block.tokens) >= _SHORTEST_TAIL:
                self._tails[block.parent] = (time.monotonic(), block)
            return
        self._tails.pop(block.parent, None)
        try:
            self._waiting.put_nowait(block)
        except asyncio.QueueFull:
            _log.warning("kv_block_not_stored", reason="the store is too slow")

    async def _write_full(self) -> None:
        while True:
            await self._write(await self._waiting.get())

    async def _write_tails(self) -> None:
        while True:
            await asyncio.sleep(_QUIET_SECONDS / 2)
            now = time.monotonic()
            ripe = [parent for parent, (since, _) in self._tails.items() if now - since >= _QUIET_SECONDS]
            for parent in ripe:
                _, block = self._tails.pop(parent)
                await self._write(block)

    async def _write(self, block: Block) -> None:
        tokens = block.tokens.astype("<i4", copy=False).tobytes()
        header = BlockHeader(block.parent, tokens, block.recompute_seconds)
        await self._archive.put(block.hash, header, block.data.data)
