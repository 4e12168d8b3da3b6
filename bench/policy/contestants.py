"""The worker's policy towards the store, and plain LRU, behind one interface."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.policy.day import Asked
from bench.policy.store import FINGERPRINT, SimulatedStore, StateSize
from services.shared.sealing import BlockHeader
from services.worker.block_mover import BlockMover
from services.worker.blocks import BLOCK_TOKENS, HashedTokens, shared_token_count, stored_pieces
from services.worker.ram_tier import RamTier
from services.worker.stored_tier import StoredTier, Visit

_MEMORY_BYTES = 8_000_000_000


class Contestant(Protocol):
    """A worker whose memory is empty before each request, so that all it finds is in the store."""

    async def begin(self, asked: Asked) -> int:
        """Takes a request; how many tokens of its prompt the store had."""
        ...

    async def end(self, asked: Asked) -> None:
        """Takes its answer."""
        ...

    async def restart(self) -> None:
        """Ends the worker and starts it anew: it forgets all that it knew."""
        ...


class _Memory:
    """KV memory in which every state is zeros."""

    def __init__(self, size: StateSize) -> None:
        self._size = size

    def save(
        self, sequence_id: int, start: int, end: int, *, room: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        return self._size.zeros(end - start)

    def restore(self, sequence_id: int, data: NDArray[np.uint8], start: int, end: int) -> None:
        pass


class Adaptive:
    """The worker's own `StoredTier`, given each block that its engine would save."""

    def __init__(self, store: SimulatedStore, size: StateSize, *, clock: Callable[[], float]) -> None:
        self._store, self._size, self._clock = store, size, clock
        self._start()

    def _start(self) -> None:
        self._ram = RamTier(_MEMORY_BYTES, clock=self._clock)
        self._tier = StoredTier(self._ram, self._store, fingerprint=FINGERPRINT, clock=self._clock)
        self._mover = BlockMover(_Memory(self._size), self._ram, clock=self._clock)
        self._visit: Visit | None = None

    async def begin(self, asked: Asked) -> int:
        """Takes a request."""
        self._ram.clear()
        self._visit = await self._tier.begin(
            asked.prompt, request_class=asked.request_class, system_token_count=asked.system_count,
            prefill_rate=self._size.prefill_rate,
        )  # fmt: skip
        wanted = HashedTokens(asked.prompt, FINGERPRINT)
        pieces = stored_pieces(wanted, self._ram, start=0, limit=len(wanted) - 1)
        self._found = pieces[-1].end if pieces else 0
        return self._found

    async def end(self, asked: Asked) -> None:
        """Takes its answer."""
        assert self._visit is not None
        tokens = asked.prompt + asked.answer
        computed_count = len(tokens) - self._found
        self._tier.end(self._visit, tokens, computed_count=computed_count, goes_on=asked.goes_on)
        known = HashedTokens(tokens, FINGERPRINT)
        for index in range(known.block_count):
            self._mover.save(0, known, index, prefill_rate=self._size.prefill_rate)

    async def restart(self) -> None:
        """Ends the worker and starts it anew."""
        await self._tier.close()
        self._start()


class PlainLru:
    """Writes every full block of everything; the store gives up what was not used for longest."""

    def __init__(self, store: SimulatedStore, size: StateSize) -> None:
        self._store, self._size = store, size

    async def begin(self, asked: Asked) -> int:
        """Takes a request."""
        wanted = HashedTokens(asked.prompt, FINGERPRINT)
        chain = await self._store.lookup([wanted.hash(index) for index in range((len(wanted) - 1) // BLOCK_TOKENS)])
        count = len(chain.hashes)
        part, used = 0, b""
        for following in chain.next:  # one that matches in part is restored and cut
            opened = await self._store.get(following.hash)
            if opened is None:
                continue
            shared = shared_token_count(wanted.block(count), np.frombuffer(opened.header.tokens, dtype="<i4"))
            part, used = max((part, used), (shared, following.hash))
        await self._store.release(chain, used=[used] if part else [])
        return min(len(wanted) - 1, count * BLOCK_TOKENS + part)

    async def end(self, asked: Asked) -> None:
        """Takes its answer."""
        known = HashedTokens(asked.prompt + asked.answer, FINGERPRINT)
        for index in range(len(known) // BLOCK_TOKENS):
            tokens = known.block(index).astype("<i4", copy=False).tobytes()
            header = BlockHeader(known.parent(index), tokens, BLOCK_TOKENS / self._size.prefill_rate)
            await self._store.put(known.hash(index), header, b"")

    async def restart(self) -> None:
        """Forgets nothing, because it knows nothing."""
