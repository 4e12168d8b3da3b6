"""Asks a worker's health service, again and again, whether it takes requests."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from services.router.worker import RoutedWorker
from services.shared.grpc_runtime import is_serving
from services.shared.pace import until_next

SURE_CHECK_SECONDS: Final = 2.0
UNSURE_CHECK_SECONDS: Final = 0.5
SETTLE_SECONDS: Final = 0.1
"""How long after a broken call the check waits: a process that is going down still answers for a moment."""
CHECK_TIMEOUT_SECONDS: Final = 1.0
FAILED_CHECKS: Final = 2
"""Failed checks in a row that take a worker out: a busy machine may be late once."""
_log = structlog.get_logger(__name__)


async def watch_health(
    worker: RoutedWorker, *, is_cache_reachable: Callable[[], bool], on_recovery: Callable[[], None]
) -> None:
    """Keeps a worker's health up to date until cancelled; asks sooner where there is doubt."""
    while True:
        worker.suspected.clear()
        has_answered = await is_serving(worker.channel, timeout_seconds=CHECK_TIMEOUT_SECONDS)
        if not worker.suspected.is_set():  # else a call broke meanwhile, and the answer is older than that
            _note(worker, has_answered, on_recovery)
        is_sure = worker.failed_check_count == 0 and worker.unlisted_since is None and is_cache_reachable()
        pause_seconds = SURE_CHECK_SECONDS if is_sure else UNSURE_CHECK_SECONDS
        await _pause(worker, until_next(pause_seconds, time.monotonic()))


async def _pause(worker: RoutedWorker, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await worker.suspected.wait()
        await asyncio.sleep(SETTLE_SECONDS)


def _note(worker: RoutedWorker, has_answered: bool, on_recovery: Callable[[], None]) -> None:
    worker.failed_check_count = 0 if has_answered else worker.failed_check_count + 1
    if worker.failed_check_count == FAILED_CHECKS:
        worker.is_healthy = False
        _log.warning("worker_does_not_answer", worker_id=worker.worker_id, address=worker.registration.address)
    elif has_answered and not worker.is_healthy:
        worker.is_healthy = True
        _log.info("worker_answers", worker_id=worker.worker_id)
        on_recovery()
