"""Keeps a worker's lease at the cache service: registers, renews every second, deregisters."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import grpc
import structlog

from localcode.cache.v1 import cache_pb2 as pb
from localcode.cache.v1.cache_pb2_grpc import CacheServiceStub
from services.shared.grpc_runtime import open_channel
from services.shared.pace import until_next

if TYPE_CHECKING:
    from localcode.cache.v1.cache_pb2_grpc import CacheServiceAsyncStub

HEARTBEAT_SECONDS: Final = 1.0
LEASE_SECONDS: Final = 5
_log = structlog.get_logger(__name__)


@asynccontextmanager
async def registered(cache_address: str, describe: Callable[[], pb.Worker]) -> AsyncIterator[None]:
    """Keeps the worker that `describe` reports registered until left. A cache service that is away is tried again."""
    async with open_channel(cache_address) as channel:
        stub = CacheServiceStub(channel)
        heartbeat = asyncio.create_task(_renew_forever(stub, describe))
        try:
            yield
        finally:
            heartbeat.cancel()
            with suppress(asyncio.CancelledError):
                await heartbeat
            with suppress(grpc.aio.AioRpcError):
                await stub.DeregisterWorker(pb.DeregisterWorkerRequest(worker_id=describe().worker_id), timeout=1.0)


async def _renew_forever(stub: "CacheServiceAsyncStub", describe: Callable[[], pb.Worker]) -> None:
    was_reachable = True
    while True:
        is_reachable = await _renew(stub, describe())
        if is_reachable != was_reachable:
            _log.info("cache_service_is_back") if is_reachable else _log.warning("cache_service_is_away")
        was_reachable = is_reachable
        await asyncio.sleep(until_next(HEARTBEAT_SECONDS, time.monotonic()))


async def _renew(stub: "CacheServiceAsyncStub", worker: pb.Worker) -> bool:
    try:
        await stub.RegisterWorker(
            pb.RegisterWorkerRequest(worker=worker, lease_seconds=LEASE_SECONDS), timeout=HEARTBEAT_SECONDS
        )
    except grpc.aio.AioRpcError:
        return False
    return True
