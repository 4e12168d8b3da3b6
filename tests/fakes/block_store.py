"""A block store of this process behind real gRPC, and blocks for it."""

import array
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from localcode.cache.v1.blocks_pb2_grpc import BlockStoreServiceStub, add_BlockStoreServiceServicer_to_server
from services.cache.blobs import Blobs, DirectoryBlobs
from services.cache.block_index import BlockIndex, MemoryBlockIndex
from services.cache.block_servicer import BlockStoreServicer
from services.cache.block_store import BlockStore, StoreLimits
from services.cache.eviction import Budget
from services.shared.block_client import BlockClient
from services.shared.grpc_runtime import HealthService, open_channel, running_server
from services.shared.keyring import Keyring
from services.shared.sealing import BlockHeader, BlockRole, seal_block

KEYS = Keyring([bytes(range(32))])
FINGERPRINT = sha256(b"model").digest()
STATE_BYTES = 2000


@dataclass(frozen=True)
class Plain:
    """A block before it is sealed."""

    hash: bytes
    header: BlockHeader
    state: bytes

    def sealed(self, keyring: Keyring = KEYS, fingerprint: bytes = FINGERPRINT) -> bytearray:
        return seal_block(self.hash, self.header, self.state, fingerprint=fingerprint, keyring=keyring)


def plain_chain(
    seed: int,
    count: int,
    *,
    parent: bytes = FINGERPRINT,
    token_count: int = 256,
    role: BlockRole = BlockRole.CONVERSATION,
    state_bytes: int = STATE_BYTES,
) -> list[Plain]:
    """Blocks of a conversation, each following the one before."""
    source, blocks = random.Random(seed), []
    for _ in range(count):
        tokens = array.array("i", [source.randrange(150_000) for _ in range(token_count)]).tobytes()
        block_hash = sha256(parent + tokens).digest()
        blocks.append(Plain(block_hash, BlockHeader(parent, tokens, 2.5, role), source.randbytes(state_bytes)))
        parent = block_hash
    return blocks


SEALED_BYTES = len(plain_chain(0, 1)[0].sealed())


def make_store(
    directory: Path | None = None,
    *,
    index: BlockIndex | None = None,
    blobs: Blobs | None = None,
    max_bytes: int = 1_000_000,
    max_block_bytes: int = 100_000,
    keyring: Keyring = KEYS,
    **limits: Any,
) -> BlockStore:
    if blobs is None:
        assert directory is not None
        blobs = DirectoryBlobs(directory)
    return BlockStore(
        index or MemoryBlockIndex(),
        blobs,
        keyring,
        StoreLimits(Budget(max_bytes, min_free_bytes=0), max_block_bytes, **limits),
    )


@asynccontextmanager
async def served(store: BlockStore, address: str) -> AsyncIterator[BlockStoreServiceStub]:
    """Serves a store at an address, and yields a stub for it."""

    def register(server: Any) -> None:
        add_BlockStoreServiceServicer_to_server(BlockStoreServicer(store), server)

    async with (
        running_server(address, register, health_service=HealthService(), stop_grace_seconds=0),
        open_channel(address) as channel,
    ):
        yield BlockStoreServiceStub(channel)


async def put_all(client: BlockClient, blocks: list[Plain]) -> None:
    for block in blocks:
        assert await client.put(block.hash, block.header, block.state)
