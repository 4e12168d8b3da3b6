"""Runs the cache service: `python -m services.cache`."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import uvloop
from grpc.aio import Server
from prometheus_client import Gauge

from localcode.cache.v1.blocks_pb2_grpc import add_BlockStoreServiceServicer_to_server
from localcode.cache.v1.cache_pb2_grpc import add_CacheServiceServicer_to_server
from services.cache.blobs import Blobs, open_blobs
from services.cache.block_index import BlockIndex, MemoryBlockIndex
from services.cache.block_metrics import BlockMetrics
from services.cache.block_servicer import BlockStoreServicer
from services.cache.block_store import BlockStore, StoreLimits
from services.cache.eviction import Budget, default_max_bytes
from services.cache.index import Index, LineageLimits, MemoryIndex
from services.cache.redis_block_index import RedisBlockIndex
from services.cache.redis_index import RedisIndex, open_redis
from services.cache.servicer import CacheServicer
from services.cache.settings import CacheSettings
from services.cache.verify import keep_reconciled
from services.cache.watch import watch_store
from services.shared.grpc_runtime import HealthService, running_server, wait_for_stop_signal
from services.shared.keyring import KEY_VARIABLE, load_keyring
from services.shared.settings import ConfigurationError, LogSettings, load_document, load_settings
from services.shared.telemetry import configure_logging, serve_metrics

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_indexes(settings: CacheSettings, *, store_id: str) -> AsyncIterator[tuple[Index, BlockIndex]]:
    """Opens the indexes where the settings say."""
    limits = LineageLimits(settings.max_lineages, settings.lineage_ttl_seconds)
    if settings.redis_url is None:
        yield MemoryIndex(limits), MemoryBlockIndex()
        return
    url, timeout = settings.redis_url.get_secret_value(), settings.redis_timeout_seconds
    async with open_redis(url, timeout_seconds=timeout, is_cluster=settings.redis_cluster) as redis:
        yield RedisIndex(redis, limits), RedisBlockIndex(redis, store_id=store_id)


def open_store(settings: CacheSettings, index: BlockIndex, blobs: Blobs) -> BlockStore:
    """Opens the store of KV blocks, and makes its key where there is none."""
    keyring = load_keyring(settings.key_path, os.environ.get(KEY_VARIABLE, ""))
    disk_bytes = shutil.disk_usage(blobs.directory).total if blobs.directory else None
    budget = Budget(settings.max_bytes or default_max_bytes(disk_bytes), settings.min_free_bytes)
    limits = StoreLimits(budget, settings.max_block_bytes, settings.max_idle_days * 24 * 3600)
    return BlockStore(index, blobs, keyring, limits)


async def serve(settings: CacheSettings) -> None:
    """Serves until a stop signal."""
    health_service = HealthService()
    answers = Gauge("localcode_cache_store_answers", "Whether the store of the index answers (1) or is away (0).")
    metrics = BlockMetrics()
    serve_metrics(settings.metrics_port)
    blobs = open_blobs(settings.storage)
    async with open_indexes(settings, store_id=blobs.identity) as (index, block_index):
        store = open_store(settings, block_index, blobs)

        def register(server: Server) -> None:
            add_CacheServiceServicer_to_server(CacheServicer(index), server)
            add_BlockStoreServiceServicer_to_server(BlockStoreServicer(store), server)

        async with running_server(settings.listen, register, health_service=health_service) as address:
            await health_service.set_serving(True)
            reconciling = keep_reconciled(store, every_seconds=settings.reconcile_seconds, show=metrics.show)
            tasks = (
                asyncio.create_task(watch_store(index, health_service, answers)),
                asyncio.create_task(reconciling),
            )
            _log.info("cache_ready", address=address, backend=index.backend, storage=store.blobs.storage)
            await wait_for_stop_signal()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """Reads the settings and serves; says what is wrong with them otherwise."""
    try:
        document = load_document()
        configure_logging(load_settings(LogSettings, "log", document=document), process="cache")
        settings = load_settings(CacheSettings, "cache", document=document)
        uvloop.run(serve(settings))
    except ConfigurationError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
