"""Watches whether the store answers, and says so in the log, the metrics and the health service.

The process stays `SERVING` as a whole while Redis is away: a restart would not bring Redis back. Only the service
`localcode.cache.v1.CacheService` turns `NOT_SERVING`.
"""

import asyncio
import time
from typing import Final

import structlog
from grpc_health.v1 import health_pb2
from prometheus_client import Gauge

from services.cache.index import Index
from services.shared.errors import StoreUnavailable
from services.shared.grpc_runtime import HealthService
from services.shared.pace import until_next

SERVICE_NAME: Final = "localcode.cache.v1.CacheService"
PING_SECONDS: Final = 1.0
_ANSWERING_PING_SECONDS: Final = 4.0  # calls find out by themselves; pings take time from decoding
_log = structlog.get_logger(__name__)


async def watch_store(index: Index, health_service: HealthService, answers: Gauge) -> None:
    """Pings the store until cancelled."""
    was_answering: bool | None = None
    while True:
        is_answering = await _answers(index)
        if is_answering != was_answering:
            await _report(index, health_service, is_answering)
        answers.set(is_answering)
        was_answering = is_answering
        await asyncio.sleep(until_next(_ANSWERING_PING_SECONDS if is_answering else PING_SECONDS, time.monotonic()))


async def _answers(index: Index) -> bool:
    try:
        await index.ping()
    except StoreUnavailable:
        return False
    return True


async def _report(index: Index, health_service: HealthService, is_answering: bool) -> None:
    if is_answering:
        _log.info("store_answers", backend=index.backend)
    else:
        _log.warning("store_is_away", backend=index.backend)
    status = health_pb2.HealthCheckResponse
    await health_service.servicer.set(SERVICE_NAME, status.SERVING if is_answering else status.NOT_SERVING)
