"""gRPC for the block store: checks what comes in, and says in messages what the store answers."""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from localcode.cache.v1 import blocks_pb2 as pb
from localcode.cache.v1.blocks_pb2_grpc import BlockStoreServiceServicer
from services.cache.block_index import Lease, StoredBlock
from services.cache.block_store import BlockStore
from services.cache.verify import Findings, verify
from services.shared.blob_directory import blob_path
from services.shared.errors import BlockNotFound, InvalidRequest, NameNotFound
from services.shared.names import checked_name
from services.shared.sealing import HASH_BYTES

MAX_HASHES: Final = 4096
MAX_LEASE_SECONDS: Final = 60
MAX_PAGE: Final = 1000
_DEFAULT_PAGE: Final = 100
_PUTS_AT_ONCE: Final = 4
_PIECE_BYTES: Final = 1024 * 1024
_LEASE_ID: Final = re.compile(r"(?:[0-9a-f]{32})?")


class BlockStoreServicer(BlockStoreServiceServicer):
    """Serves one store."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self._puts = asyncio.Semaphore(_PUTS_AT_ONCE)

    async def DescribeStore(self, request: pb.DescribeStoreRequest, context: Any) -> pb.DescribeStoreResponse:
        """Says where blocks are kept."""
        limits, blobs = self._store.limits, self._store.blobs
        return pb.DescribeStoreResponse(
            storage=blobs.storage,
            store_id=blobs.store_id,
            max_block_bytes=limits.max_block_bytes,
            max_bytes=limits.budget.max_bytes,
            min_free_bytes=limits.budget.min_free_bytes,
            key_ids=self._store.key_ids,
        )

    async def LookupBlocks(self, request: pb.LookupBlocksRequest, context: Any) -> pb.LookupBlocksResponse:
        """Finds the longest stored beginning of a prompt, and what follows it."""
        _check_hashes([request.fingerprint], "fingerprint")
        _check_hashes(request.hashes, "hashes")
        lease = _lease(request.lease_seconds)
        found = await self._store.index.lookup(
            request.fingerprint, request.hashes, lease=lease, counts=not request.peek
        )
        is_leased = lease is not None and (found.prefix or found.next)
        return pb.LookupBlocksResponse(
            blocks=map(to_message, found.prefix),
            next=map(to_message, found.next),
            lease_id=lease.id if lease and is_leased else "",
        )

    async def FindStates(self, request: pb.FindStatesRequest, context: Any) -> pb.FindStatesResponse:
        """Finds states of whole sequences that may begin a prompt."""
        _check_hashes(request.places, "places")
        _check_hashes(request.hashes, "hashes")
        lease = _lease(request.lease_seconds)
        found = await self._store.index.find(request.hashes, parents=request.places, lease=lease)
        return pb.FindStatesResponse(states=map(to_message, found), lease_id=lease.id if lease and found else "")

    async def ReleaseBlocks(self, request: pb.ReleaseBlocksRequest, context: Any) -> pb.ReleaseBlocksResponse:
        """Ends a lease, counts uses, and checks what could not be opened."""
        if not _LEASE_ID.fullmatch(request.lease_id):
            raise InvalidRequest("This is no id of a lease.", param="lease_id")
        _check_hashes(request.hashes, "hashes")
        _check_hashes(request.used_hashes, "used_hashes")
        _check_hashes(request.damaged_hashes, "damaged_hashes")
        if request.lease_id:
            await self._store.index.release(request.lease_id, request.hashes)
        if request.used_hashes:
            await self._store.index.use(request.used_hashes)
        await self._store.discard_damaged(request.damaged_hashes)
        return pb.ReleaseBlocksResponse()

    async def CommitBlock(self, request: pb.CommitBlockRequest, context: Any) -> pb.CommitBlockResponse:
        """Indexes a block that a worker wrote into the directory."""
        _check_hashes([request.hash], "hash")
        await self._store.commit(request.hash)
        return pb.CommitBlockResponse()

    async def PutBlock(self, request_iterator: AsyncIterator[pb.PutBlockRequest], context: Any) -> pb.PutBlockResponse:
        """Stores a block that is sent in pieces."""
        async with self._puts:
            block_hash, blob = await self._collected(request_iterator)
            await self._store.put(block_hash, blob)
        return pb.PutBlockResponse()

    async def _collected(self, pieces: AsyncIterator[pb.PutBlockRequest]) -> tuple[bytes, bytearray]:
        max_bytes = self._store.limits.max_block_bytes
        block_hash, blob = b"", bytearray()
        async for piece in pieces:
            block_hash = block_hash or piece.hash
            if piece.hash not in (b"", block_hash):
                raise InvalidRequest("All pieces must be of one block.", param="hash")
            blob += piece.data
            if len(blob) > max_bytes:
                raise InvalidRequest(f"A block has at most {max_bytes} bytes.", param="data")
        _check_hashes([block_hash], "hash")
        return block_hash, blob

    async def GetBlock(self, request: pb.GetBlockRequest, context: Any) -> AsyncIterator[pb.GetBlockResponse]:
        """Reads a block in pieces."""
        _check_hashes([request.hash], "hash")
        read = self._store.read_beginning if request.header_only else self._store.read
        blob = await read(request.hash)
        for start in range(0, len(blob), _PIECE_BYTES):
            yield pb.GetBlockResponse(data=blob[start : start + _PIECE_BYTES])

    async def PinBlocks(self, request: pb.PinBlocksRequest, context: Any) -> pb.PinBlocksResponse:
        """Keeps blocks from being deleted, or no longer."""
        if not request.hashes:
            raise InvalidRequest("There are no hashes.", param="hashes")
        _check_hashes(request.hashes, "hashes")
        known_count = await self._store.index.pin(request.hashes, is_pinned=not request.unpin)
        return pb.PinBlocksResponse(known_count=known_count)

    async def NameBlock(self, request: pb.NameBlockRequest, context: Any) -> pb.NameBlockResponse:
        """Gives a block a name, and pins it."""
        _check_hashes([request.hash], "hash")
        if not await self._store.index.name(_full_name(request.fingerprint, request.name), request.hash):
            raise BlockNotFound("No block of this hash is stored.")
        return pb.NameBlockResponse()

    async def FindNamedBlock(self, request: pb.FindNamedBlockRequest, context: Any) -> pb.FindNamedBlockResponse:
        """Finds the block of a name."""
        found = await self._store.index.named(_full_name(request.fingerprint, request.name))
        if found is None:
            raise NameNotFound(f"Nothing is saved under the name {request.name!r}.", param="name")
        return pb.FindNamedBlockResponse(hash=found)

    async def ListBlocks(self, request: pb.ListBlocksRequest, context: Any) -> pb.ListBlocksResponse:
        """Lists a page of the index."""
        if request.page_size > MAX_PAGE:
            raise InvalidRequest(f"A page has at most {MAX_PAGE} blocks.", param="page_size")
        if len(request.page_token) not in (0, 2 * HASH_BYTES):
            raise InvalidRequest("This is no token of a page.", param="page_token")
        blocks, after = await self._store.index.page(request.page_token, request.page_size or _DEFAULT_PAGE)
        return pb.ListBlocksResponse(blocks=map(to_message, blocks), next_page_token=after)

    async def ListHotBlocks(self, request: pb.ListHotBlocksRequest, context: Any) -> pb.ListHotBlocksResponse:
        """Finds what a worker that starts should have in memory first."""
        _check_hashes([request.fingerprint], "fingerprint")
        blocks = await self._store.hottest(request.fingerprint, max_bytes=request.max_bytes)
        return pb.ListHotBlocksResponse(blocks=map(to_message, blocks))

    async def CountTokens(self, request: pb.CountTokensRequest, context: Any) -> pb.CountTokensResponse:
        """Notes how many tokens a worker has computed."""
        await self._store.index.count_computed(request.computed_token_count)
        return pb.CountTokensResponse()

    async def PruneBlocks(self, request: pb.PruneBlocksRequest, context: Any) -> pb.PruneBlocksResponse:
        """Deletes blocks."""
        if request.fingerprint:
            _check_hashes([request.fingerprint], "fingerprint")
        removed = await self._store.prune(
            max_bytes=request.max_bytes if request.HasField("max_bytes") else None,
            idle_seconds=request.idle_seconds if request.HasField("idle_seconds") else None,
            fingerprint=request.fingerprint,
        )
        size_bytes = sum(block.facts.size_bytes for block in removed)
        return pb.PruneBlocksResponse(block_count=len(removed), size_bytes=size_bytes)

    async def VerifyBlocks(
        self, request: pb.VerifyBlocksRequest, context: Any
    ) -> AsyncIterator[pb.VerifyBlocksResponse]:
        """Checks every blob and every entry."""
        total_bytes = (await self._store.index.counts()).size_bytes
        findings = Findings()
        async for findings in verify(self._store, repair=request.repair):
            yield _progress(findings, total_bytes)
        yield _progress(findings, total_bytes, done=True)

    async def GetBlockStatistics(
        self, request: pb.GetBlockStatisticsRequest, context: Any
    ) -> pb.GetBlockStatisticsResponse:
        """Counts what is stored and what became of it."""
        counts = await self._store.index.counts()
        return pb.GetBlockStatisticsResponse(
            block_count=counts.block_count,
            size_bytes=counts.size_bytes,
            token_count=counts.token_count,
            max_bytes=self._store.limits.budget.max_bytes,
            pinned_count=counts.pinned_count,
            hit_count=counts.hit_count,
            miss_count=counts.miss_count,
            written_bytes=counts.written_bytes,
            written_token_count=counts.written_token_count,
            eviction_count=counts.eviction_count,
            evicted_bytes=counts.evicted_bytes,
            backend=self._store.index.backend,
            computed_token_count=counts.computed_token_count,
        )


def to_message(block: StoredBlock) -> pb.StoredBlock:
    """Says in a message what the index knows of a block."""
    facts = block.facts
    return pb.StoredBlock(
        hash=facts.hash,
        parent=facts.parent,
        fingerprint=facts.fingerprint,
        token_count=facts.token_count,
        size_bytes=facts.size_bytes,
        role=pb.BlockRole.ValueType(facts.role),
        recompute_seconds=facts.recompute_seconds,
        location=blob_path(facts.hash),
        hit_count=block.hit_count,
        used_at=block.used_at,
        pinned=block.is_pinned,
        leased=block.is_leased,
        whole_sequence=facts.is_whole,
    )


def _lease(seconds: int) -> Lease | None:
    if seconds > MAX_LEASE_SECONDS:
        raise InvalidRequest(f"A lease lasts at most {MAX_LEASE_SECONDS} seconds.", param="lease_seconds")
    return Lease(secrets.token_hex(16), time.time() + seconds) if seconds else None


def _progress(findings: Findings, total_bytes: int, *, done: bool = False) -> pb.VerifyBlocksResponse:
    return pb.VerifyBlocksResponse(
        checked_count=findings.checked_count,
        checked_bytes=findings.checked_bytes,
        total_bytes=total_bytes,
        damaged_count=findings.damaged_count,
        foreign_count=findings.foreign_count,
        unindexed_count=findings.unindexed_count,
        missing_count=findings.missing_count,
        done=done,
    )


def _full_name(fingerprint: bytes, name: str) -> bytes:
    _check_hashes([fingerprint], "fingerprint")
    return fingerprint + checked_name(name, param="name").encode()


def _check_hashes(hashes: Sequence[bytes], param: str) -> None:
    if len(hashes) > MAX_HASHES:
        raise InvalidRequest(f"At most {MAX_HASHES} hashes, not {len(hashes)}.", param=param)
    if any(len(block_hash) != HASH_BYTES for block_hash in hashes):
        raise InvalidRequest(f"A hash has {HASH_BYTES} bytes.", param=param)
