"""gRPC for the index: checks what comes in, and counts lookups."""

from collections.abc import Sequence
from typing import Any, Final

from localcode.cache.v1 import cache_pb2 as pb
from localcode.cache.v1.cache_pb2_grpc import CacheServiceServicer
from services.cache.index import Index
from services.shared.errors import InvalidRequest

MAX_HASHES: Final = 4096
HASH_BYTES: Final = 32
MIN_LEASE_SECONDS: Final = 1
MAX_LEASE_SECONDS: Final = 60


class CacheServicer(CacheServiceServicer):
    """Serves one index."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._lookup_count = 0
        self._hit_count = 0

    async def RegisterWorker(self, request: pb.RegisterWorkerRequest, context: Any) -> pb.RegisterWorkerResponse:
        """Adds a worker, or renews its lease and load."""
        worker = request.worker
        _require(worker.worker_id, "worker.worker_id")
        _require(worker.address, "worker.address")
        if not MIN_LEASE_SECONDS <= request.lease_seconds <= MAX_LEASE_SECONDS:
            raise InvalidRequest(
                f"A lease lasts {MIN_LEASE_SECONDS} to {MAX_LEASE_SECONDS} seconds, not {request.lease_seconds}.",
                param="lease_seconds",
            )
        await self._index.register(
            worker.worker_id, worker.SerializeToString(), lease_seconds=float(request.lease_seconds)
        )
        return pb.RegisterWorkerResponse()

    async def DeregisterWorker(self, request: pb.DeregisterWorkerRequest, context: Any) -> pb.DeregisterWorkerResponse:
        """Removes a worker at once."""
        await self._index.deregister(request.worker_id)
        return pb.DeregisterWorkerResponse()

    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Any) -> pb.ListWorkersResponse:
        """Lists the living workers, by id."""
        registrations = await self._index.registrations()
        return pb.ListWorkersResponse(workers=[pb.Worker.FromString(data) for data in registrations])

    async def RecordLineage(self, request: pb.RecordLineageRequest, context: Any) -> pb.RecordLineageResponse:
        """Notes that a worker has computed a conversation."""
        _require(request.worker_id, "worker_id")
        if not request.hashes:
            raise InvalidRequest("There are no hashes.", param="hashes")
        _check_hashes(request.hashes)
        await self._index.record(request.worker_id, request.hashes, prompt_token_count=request.prompt_token_count)
        return pb.RecordLineageResponse()

    async def LookupLineage(self, request: pb.LookupLineageRequest, context: Any) -> pb.LookupLineageResponse:
        """Finds the workers that know the longest beginning of a conversation."""
        _check_hashes(request.hashes)
        match = await self._index.lookup(request.hashes)
        self._lookup_count += 1
        self._hit_count += match.matched_count > 0
        return pb.LookupLineageResponse(
            matched_count=match.matched_count,
            worker_ids=match.worker_ids,
            prompt_token_count=match.prompt_token_count,
        )

    async def GetStatistics(self, request: pb.GetStatisticsRequest, context: Any) -> pb.GetStatisticsResponse:
        """Counts what is stored."""
        return pb.GetStatisticsResponse(
            worker_count=len(await self._index.registrations()),
            lineage_count=await self._index.lineage_count(),
            lookup_count=self._lookup_count,
            hit_count=self._hit_count,
            backend=self._index.backend,
        )


def _require(value: str, param: str) -> None:
    if not value or "\n" in value:
        raise InvalidRequest(f"{param} must be a text of one line.", param=param)


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if len(hashes) > MAX_HASHES:
        raise InvalidRequest(f"At most {MAX_HASHES} hashes, not {len(hashes)}.", param="hashes")
    if any(len(lineage_hash) != HASH_BYTES for lineage_hash in hashes):  # nothing but hashes is ever stored
        raise InvalidRequest(f"A hash has {HASH_BYTES} bytes.", param="hashes")
