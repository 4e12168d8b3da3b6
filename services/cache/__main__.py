"""Runs the cache service: `python -m services.cache`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog
from prometheus_client import Gauge

from localcode.cache.v1.cache_pb2_grpc import add_CacheServiceServicer_to_server
from services.cache.index import Index, LineageLimits, MemoryIndex
from services.cache.redis_index import RedisIndex, open_redis
from services.cache.servicer import CacheServicer
from services.cache.settings import CacheSettings
from services.cache.watch import watch_store
from services.shared.grpc_runtime import HealthService, running_server, wait_for_stop_signal
from services.shared.settings import ConfigurationError, LogSettings, load_document, load_settings
from services.shared.telemetry import configure_logging, serve_metrics

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_index(settings: CacheSettings) -> AsyncIterator[Index]:
    """Opens the index that the settings name."""
    limits = LineageLimits(settings.max_lineages, settings.lineage_ttl_seconds)
    if settings.redis_url is None:
        yield MemoryIndex(limits)
        return
    url = settings.redis_url.get_secret_value()
    async with open_redis(url, timeout_seconds=settings.redis_timeout_seconds) as redis:
        yield RedisIndex(redis, limits)


async def serve(settings: CacheSettings) -> None:
    """Serves until a stop signal."""
    health_service = HealthService()
    answers = Gauge("localcode_cache_store_answers", "Whether the store of the index answers (1) or is away (0).")
    serve_metrics(settings.metrics_port)
    async with open_index(settings) as index:
        register = partial(add_CacheServiceServicer_to_server, CacheServicer(index))
        async with running_server(settings.listen, register, health_service=health_service) as address:
            await health_service.set_serving(True)
            watch = asyncio.create_task(watch_store(index, health_service, answers))
            _log.info("cache_ready", address=address, backend=index.backend)
            await wait_for_stop_signal()
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch


def main() -> None:
    """Reads the settings and serves; says what is wrong with them otherwise."""
    try:
        document = load_document()
        configure_logging(load_settings(LogSettings, "log", document=document), process="cache")
        settings = load_settings(CacheSettings, "cache", document=document)
        asyncio.run(serve(settings))
    except ConfigurationError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
