"""Brings stored blocks into host memory that nobody waits for yet: what a worker will probably be asked for first, and
conversations that a tool call has interrupted. It stands back whenever a request is at work.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog

from services.shared.block_client import HotBlock, StoredChain
from services.worker.blocks import Block
from services.worker.ram_tier import RamTier

_SETTLE_SECONDS: Final = 1.0  # by then the engine has given host memory what it parked
_PAUSE_SECONDS: Final = 0.05
_MOST_EXPECTED: Final = 64
_log = structlog.get_logger(__name__)


class Archive(Protocol):
    """What prefetching asks of the store."""

    async def lookup(self, hashes: Sequence[bytes], *, peek: bool = False) -> StoredChain:
        """Finds the longest stored beginning of a chain."""
        ...

    async def hottest(self, *, max_bytes: int) -> Sequence[HotBlock]:
        """Finds the most valuable blocks."""
        ...


class Prefetcher:
    """Reads ahead, on the event loop, as far as host memory has room or holds what is worth less."""

    def __init__(
        self, ram: RamTier, archive: Archive, read: Callable[[bytes], Awaitable[Block | None]], *,
        is_fetching: Callable[[], bool], is_computing: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._ram, self._archive, self._read = ram, archive, read
        self._is_fetching, self._is_computing = is_fetching, is_computing
        self._expected: asyncio.Queue[Sequence[bytes]] = asyncio.Queue(_MOST_EXPECTED)
        self.token_count = 0
        """Tokens whose state was brought into host memory so far."""

    def expect(self, hashes: Sequence[bytes]) -> None:
        """Says that a prompt will come that begins with these full blocks."""
        if not self._expected.full():
            self._expected.put_nowait(hashes)

    async def run(self) -> None:
        """Brings in what is expected, until cancelled."""
        while True:
            hashes = await self._expected.get()
            await asyncio.sleep(_SETTLE_SECONDS)
            if all(map(self._ram.contains, hashes)):
                continue
            chain = await self._archive.lookup(hashes, peek=True)
            await self._bring(chain.hashes, self._is_fetching)

    async def warm(self, max_bytes: int) -> int:
        """Brings in the most valuable blocks that have so many bytes together; how many tokens' state."""
        hottest = await self._archive.hottest(max_bytes=max_bytes)
        count = await self._bring(
            [block.hash for block in hottest], lambda: self._is_fetching() or self._is_computing()
        )
        _log.info("host_memory_warmed", token_count=count, block_count=len(hottest))
        return count

    async def _bring(self, hashes: Sequence[bytes], must_wait: Callable[[], bool]) -> int:
        """Reads what is missing, block by block while it need not wait, up to the first that finds no room."""
        count = 0
        for name in hashes:
            if self._ram.contains(name):
                continue
            while must_wait():  # noqa: ASYNC110
                await asyncio.sleep(_PAUSE_SECONDS)
            block = await self._read(name)
            if block is None:
                continue
            if not self._ram.offer(block) and not self._ram.contains(name):
                break
            count += len(block.tokens)
        self.token_count += count
        return count
