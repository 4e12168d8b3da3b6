"""A worker's way to the KV store: seals and opens blocks here, reads and writes the directory itself where it sees it.

Nothing here raises because the store, its disk or its index fails: what can't be read is a miss, what can't be written
is dropped, and the log says once that it is so (`store_trouble.py`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from google.protobuf.message import Message
from grpc import StatusCode
from grpc.aio import AioRpcError, Channel

from localcode.cache.v1 import blocks_pb2 as pb
from localcode.cache.v1.blocks_pb2_grpc import BlockStoreServiceStub
from services.shared.blob_directory import blob_bytes, read_beginning, read_blob, read_store_id, write_blob
from services.shared.errors import StoreFull
from services.shared.grpc_runtime import open_channel
from services.shared.keyring import KEY_FILE, KEY_VARIABLE, Keyring
from services.shared.sealing import BlockHeader, Buffer, open_block, open_header, seal_block
from services.shared.store_trouble import StoreTrouble, Use

LEASE_SECONDS: Final = 30
_CALL_SECONDS: Final = 0.5
_TRANSFER_SECONDS: Final = 10.0
_DESCRIPTION_SECONDS: Final = 60.0
_SLOWEST_BYTES_PER_SECOND: Final = 5e6  # of a way to the service that is worth using
_STALL_SECONDS: Final = 2.0
_PIECE_BYTES: Final = 1024 * 1024
_TRANSFERS_AT_ONCE: Final = 2
_OTHER_KEY: Final = (
    f"This process seals with a key that the store at {{storage}} does not know, so nothing is stored or found. "
    f"Give both the same {KEY_VARIABLE}, or the same file {KEY_FILE}."
)
Opened = TypeVar("Opened")
Answered = TypeVar("Answered", bound=Message)


@dataclass(frozen=True)
class NextBlock:
    """A block that is stored behind a beginning: a tail, or a full block of another prompt."""

    hash: bytes
    token_count: int
    size_bytes: int = 0
    """Sealed."""


@dataclass(frozen=True)
class HotBlock:
    """A stored block that is worth having in memory."""

    hash: bytes
    size_bytes: int
    """Sealed; a little more than its state."""


@dataclass(frozen=True)
class StoredChain:
    """What is stored of a prompt: its longest beginning and what follows that, last used first; guarded by a lease."""

    hashes: tuple[bytes, ...] = ()
    next: tuple[NextBlock, ...] = ()
    lease_id: str = ""
    size_bytes: int = 0
    """Bytes that the beginning takes in the store."""


@dataclass(frozen=True)
class OpenedBlock:
    """A block as it was put."""

    header: BlockHeader
    state: memoryview


class BlockClient:
    """Stores the blocks of one model in one setting, which the fingerprint stands for."""

    def __init__(self, channel: Channel, *, fingerprint: bytes, keyring: Keyring) -> None:
        self._stub = BlockStoreServiceStub(channel)
        self._fingerprint, self._keyring = fingerprint, keyring
        self._directory: Path | None = None
        self._described_until = 0.0
        self._knows_key = True
        self._reads, self._writes = asyncio.Semaphore(_TRANSFERS_AT_ONCE), asyncio.Semaphore(_TRANSFERS_AT_ONCE)
        self._trouble = StoreTrouble()

    @property
    def is_away(self) -> bool:
        """Whether the service or its index did not answer when it was last asked."""
        return self._trouble.is_away

    async def knows_key(self) -> bool:
        """Whether the store takes what is sealed here, as far as it can be asked; the log says so if it doesn't."""
        if not self._trouble.is_paused:
            try:
                await self._describe()
            except AioRpcError as error:
                self._trouble.failed(Use.ASKING, error)
        return self._knows_key

    async def lookup(self, hashes: Sequence[bytes], *, peek: bool = False) -> StoredChain:
        """Finds the longest stored beginning of a chain of full blocks. `peek` takes no lease and counts nothing."""
        request = pb.LookupBlocksRequest(
            fingerprint=self._fingerprint, hashes=hashes, lease_seconds=0 if peek else LEASE_SECONDS, peek=peek
        )
        answer = await self._ask(self._stub.LookupBlocks, request)
        if answer is None:
            return StoredChain()
        following = tuple(NextBlock(block.hash, block.token_count, block.size_bytes) for block in answer.next)
        size_bytes = sum(block.size_bytes for block in answer.blocks)
        return StoredChain(tuple(block.hash for block in answer.blocks), following, answer.lease_id, size_bytes)

    async def find_states(self, places: Sequence[bytes], hashes: Sequence[bytes]) -> StoredChain:
        """Finds states of whole sequences by name, and behind places of a prompt those of others too: in `next`."""
        request = pb.FindStatesRequest(places=places, hashes=hashes, lease_seconds=LEASE_SECONDS)
        answer = await self._ask(self._stub.FindStates, request)
        if answer is None:
            return StoredChain()
        states = tuple(NextBlock(state.hash, state.token_count, state.size_bytes) for state in answer.states)
        return StoredChain(next=states, lease_id=answer.lease_id)

    async def release(self, chain: StoredChain, *, used: Iterable[bytes] = ()) -> None:
        """Ends the lease of a lookup, and counts the use of those of `next` that were restored."""
        names = [*chain.hashes, *(block.hash for block in chain.next)]
        used_names = list(used)
        if chain.lease_id or used_names:
            await self._release(pb.ReleaseBlocksRequest(lease_id=chain.lease_id, hashes=names, used_hashes=used_names))

    async def hottest(self, *, max_bytes: int) -> tuple[HotBlock, ...]:
        """Finds the most valuable blocks that have so many bytes together, each behind its parent; counts nothing."""
        request = pb.ListHotBlocksRequest(fingerprint=self._fingerprint, max_bytes=max_bytes)
        answer = await self._ask(self._stub.ListHotBlocks, request, seconds=_TRANSFER_SECONDS)
        return () if answer is None else tuple(HotBlock(block.hash, block.size_bytes) for block in answer.blocks)

    async def _ask(
        self, method: Callable[..., Awaitable[Answered]], request: Message, *, seconds: float = _CALL_SECONDS
    ) -> Answered | None:
        """Asks the service; None where it has another key, does not answer, or is left alone for a while."""
        if not await self.knows_key() or self._trouble.is_paused:
            return None
        try:
            answer = await method(request, timeout=seconds)
        except AioRpcError as error:
            self._trouble.failed(Use.ASKING, error)
            return None
        self._trouble.worked(Use.ASKING)
        return answer

    async def count_tokens(self, computed_count: int) -> bool:
        """Tells the store's statistics how many tokens were computed; says whether that arrived."""
        if self._trouble.is_paused:
            return False
        try:
            await self._stub.CountTokens(
                pb.CountTokensRequest(computed_token_count=computed_count), timeout=_CALL_SECONDS
            )
        except AioRpcError as error:
            self._trouble.failed(Use.ASKING, error)
            return False
        self._trouble.worked(Use.ASKING)
        return True

    async def get(self, block_hash: bytes) -> OpenedBlock | None:
        """Reads and opens a block; None if that fails for whatever reason."""
        return await self._get(block_hash, self._open)

    async def get_header(self, block_hash: bytes) -> BlockHeader | None:
        """Reads what a block holds, without its state; None if that fails for whatever reason."""
        return await self._get(block_hash, self._open_header, header_only=True)

    async def put(self, block_hash: bytes, header: BlockHeader, state: Buffer) -> bool:
        """Seals and stores a block, and says whether it is stored. `state` must not change meanwhile.

        Whoever calls bounds how many blocks wait for this.
        """
        if not await self.knows_key() or self._trouble.is_paused:
            return False
        async with self._writes:
            blob = await asyncio.to_thread(
                seal_block, block_hash, header, state, fingerprint=self._fingerprint, keyring=self._keyring
            )
            try:
                await self._write(block_hash, blob)
            except (AioRpcError, OSError, StoreFull) as error:
                self._trouble.failed(Use.WRITING, error)
                return False
        self._trouble.worked(Use.ASKING, Use.WRITING)
        return True

    async def name(self, name: str, block_hash: bytes) -> bool:
        """Gives a stored block a name and pins it, and with it all before it; says whether that is so now."""
        request = pb.NameBlockRequest(fingerprint=self._fingerprint, name=name, hash=block_hash)
        try:
            await self._stub.NameBlock(request, timeout=_CALL_SECONDS)
        except AioRpcError as error:
            self._trouble.failed(Use.ASKING, error)
            return False
        return True

    async def named(self, name: str) -> bytes | None:
        """The block that has a name; None if none has. Raises `AioRpcError` where the store does not answer."""
        request = pb.FindNamedBlockRequest(fingerprint=self._fingerprint, name=name)
        try:
            return (await self._stub.FindNamedBlock(request, timeout=_TRANSFER_SECONDS)).hash
        except AioRpcError as error:
            if error.code() is StatusCode.NOT_FOUND:
                return None
            raise

    @property
    def is_remote(self) -> bool:
        """Whether blocks come through the cache service: this process does not see the store's directory."""
        return self._directory is None

    async def _get(
        self, block_hash: bytes, open_it: Callable[[bytes, Buffer], Opened | None], *, header_only: bool = False
    ) -> Opened | None:
        async with self._reads:
            if self._trouble.is_paused:
                return None
            try:
                blob = await self._read(block_hash, header_only=header_only)
            except (AioRpcError, OSError) as error:
                self._trouble.failed(Use.READING, error)
                return None
            self._trouble.worked(Use.READING)
            opened = None if blob is None else await asyncio.to_thread(open_it, block_hash, blob)
        if opened is None:
            await self._release(pb.ReleaseBlocksRequest(damaged_hashes=[block_hash]))
        return opened

    def _open(self, block_hash: bytes, blob: Buffer) -> OpenedBlock | None:
        opened = open_block(blob, block_hash, fingerprint=self._fingerprint, keyring=self._keyring)
        return OpenedBlock(*opened) if opened else None

    def _open_header(self, block_hash: bytes, beginning: Buffer) -> BlockHeader | None:
        return open_header(beginning, block_hash, fingerprint=self._fingerprint, keyring=self._keyring)

    async def _read(self, block_hash: bytes, *, header_only: bool) -> Buffer | None:
        if directory := await self._shared_directory():
            read = read_beginning if header_only else read_blob
            return await asyncio.to_thread(read, directory, block_hash)
        request, blob = pb.GetBlockRequest(hash=block_hash, header_only=header_only), bytearray()
        try:
            pieces = self._stub.GetBlock(request)  # as long as pieces come: a state may be large
            while isinstance(piece := await asyncio.wait_for(pieces.read(), _STALL_SECONDS), pb.GetBlockResponse):
                blob += piece.data
        except AioRpcError as error:
            if error.code() is StatusCode.NOT_FOUND:
                return None
            raise
        return blob

    async def _write(self, block_hash: bytes, blob: Buffer) -> None:
        directory = await self._shared_directory()
        if directory is None:
            seconds = _TRANSFER_SECONDS + len(blob) / _SLOWEST_BYTES_PER_SECOND
            await self._stub.PutBlock(_pieces(block_hash, blob), timeout=seconds)
            return
        if await asyncio.to_thread(blob_bytes, directory, block_hash) != len(blob):
            await asyncio.to_thread(write_blob, directory, block_hash, blob)
        await self._stub.CommitBlock(pb.CommitBlockRequest(hash=block_hash), timeout=_TRANSFER_SECONDS)

    async def _shared_directory(self) -> Path | None:
        """The store's directory if this process sees the same one."""
        await self._describe()
        return self._directory

    async def _describe(self) -> None:
        """Asks from time to time where the store is and which keys it knows."""
        if time.monotonic() <= self._described_until:
            return
        description = await self._stub.DescribeStore(pb.DescribeStoreRequest(), timeout=_CALL_SECONDS)
        path = Path(description.storage)
        is_same = bool(description.store_id) and description.store_id == await asyncio.to_thread(read_store_id, path)
        self._directory = path if is_same else None
        self._described_until = time.monotonic() + _DESCRIPTION_SECONDS
        self._knows_key = not description.key_ids or self._keyring.sealing_key_id in description.key_ids
        if self._knows_key:
            self._trouble.worked(Use.KEY)
        else:
            self._trouble.note(Use.KEY, "another key", _OTHER_KEY.format(storage=description.storage))

    async def _release(self, request: pb.ReleaseBlocksRequest) -> None:
        if self._trouble.is_paused:
            return
        try:
            await self._stub.ReleaseBlocks(request, timeout=_CALL_SECONDS)
        except AioRpcError as error:
            self._trouble.failed(Use.ASKING, error)


@asynccontextmanager
async def open_block_client(address: str, *, fingerprint: bytes, keyring: Keyring) -> AsyncIterator[BlockClient]:
    """Opens a client of the cache service at an address."""
    async with open_channel(address) as channel:
        yield BlockClient(channel, fingerprint=fingerprint, keyring=keyring)


async def _pieces(block_hash: bytes, blob: Buffer) -> AsyncIterator[pb.PutBlockRequest]:
    view = memoryview(blob)
    for start in range(0, len(view), _PIECE_BYTES):
        yield pb.PutBlockRequest(hash=block_hash, data=bytes(view[start : start + _PIECE_BYTES]))
