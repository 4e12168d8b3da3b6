"""A worker's engine above a cache service with a Valkey, to move KV state through all of it."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from grpc.aio import Channel

from bench.sessions import words
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.block_client import BlockClient
from services.shared.grpc_runtime import open_channel
from services.shared.keyring import Keyring
from services.shared.sealing import BlockHeader, Buffer
from services.worker.blocks import HashedTokens
from services.worker.stored_tier import StoredTier
from tests.fakes.engine import LoadedEngine
from tests.fakes.kv import best_match, compute
from tests.fakes.kv_system import kv_system
from tests.fakes.worker_engine import Running, running_worker

T = TypeVar("T")
_RAM_BYTES: Final = 4_000_000_000


class NotingClient(BlockClient):
    """Knows what it has stored; asking the service again and again would slow what is measured."""

    def __init__(self, channel: Channel, *, fingerprint: bytes, keyring: Keyring) -> None:
        super().__init__(channel, fingerprint=fingerprint, keyring=keyring)
        self.stored: set[bytes] = set()

    async def put(self, block_hash: bytes, header: BlockHeader, state: Buffer) -> bool:
        """Stores a block and notes it."""
        is_stored = await super().put(block_hash, header, state)
        if is_stored:
            self.stored.add(block_hash)
        return is_stored


class Rig:
    """A worker's engine and the store below it."""

    def __init__(self, running: Running, stored: StoredTier, archive: NotingClient) -> None:
        self.running, self.stored, self.archive = running, stored, archive
        self.loaded, self.pool = running.loaded, running.loaded.pool
        self.stepping = LoadedEngine(running.engine, running.loaded)

    async def on_engine(self, work: Callable[[], T]) -> T:
        """Does something in the engine's thread, between two steps."""
        return await asyncio.wrap_future(self.running.engine.call(work))

    def tokens(self, count: int, seed: str) -> list[int]:
        """A text of exactly so many tokens."""
        return self.stepping.tokens(f"{seed}\n{words(2 * count, seed=seed)}")[:count]

    async def computed(self, tokens: Sequence[int]) -> int:
        """The sequence of a conversation that is computed and still open."""
        return await self.on_engine(lambda: compute(self.stepping, tokens))

    async def park(self, sequence_id: int, tokens: Sequence[int]) -> tuple[float, float]:
        """Ends a conversation that will go on; when that was, and when all of it was stored."""
        visit = await self.stored.begin(
            tokens, request_class=pb.REQUEST_CLASS_MAIN, system_token_count=0, prefill_rate=self.prefill_rate
        )
        self.stored.end(visit, tokens, computed_count=len(tokens), goes_on=True)
        began = time.monotonic()
        await self.on_engine(lambda: self.pool.park(sequence_id, tokens, now=began))
        while not self.archive.stored >= set(visit.hashes):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return began, time.monotonic()

    async def restored(self, tokens: Sequence[int]) -> float:
        """Forgets all that is in memory and brings a conversation back from the disk; how many seconds that took."""
        await self.on_engine(self.pool.drop_parked)
        assert self.loaded.ram is not None
        self.loaded.ram.clear()
        wanted = HashedTokens([*tokens, tokens[-1]], self.loaded.fingerprint)  # a prompt's last token is computed
        began = time.monotonic()
        await self.stored.fetch(wanted, prefill_rate=self.prefill_rate)
        match = await self.on_engine(lambda: best_match(self.stepping, wanted.tokens.tolist()))
        seconds = time.monotonic() - began
        if match is None or match.length < len(tokens):
            raise RuntimeError(f"{match.length if match else 0} of {len(tokens)} tokens came back")
        return seconds

    @property
    def prefill_rate(self) -> float:
        """Tokens a second, as the engine has learned."""
        return self.running.engine.load().prefill_tokens_per_second


@asynccontextmanager
async def open_rig(model: Path, cache_type: str, *, cells: int) -> AsyncIterator[Rig]:
    """Starts all of it; what is parked goes to memory and from there to the disk at once."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        async with kv_system(Path(name), model, with_valkey=True) as system:
            with running_worker(
                model, context=cells, kv_cells=cells, slots=2, parked_sequences=4, parked_cells=1,
                ram_bytes=_RAM_BYTES, cache_type_k=cache_type, cache_type_v=cache_type,
            ) as running:  # fmt: skip
                fingerprint, ram = running.loaded.fingerprint, running.loaded.ram
                assert ram is not None
                async with open_channel(system.cache_address) as channel:
                    archive = NotingClient(channel, fingerprint=fingerprint, keyring=system.keyring())
                    stored = StoredTier(
                        ram, archive, fingerprint=fingerprint,
                        is_computing=lambda: running.engine.load().running_count > 0,
                    )  # fmt: skip
                    try:
                        yield Rig(running, stored, archive)
                    finally:
                        await stored.close()
