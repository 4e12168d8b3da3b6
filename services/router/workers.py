"""Who is alive: polls the cache service, and keeps a channel and a health check for every worker.

The list of the cache service says who exists, the health services say who answers. While the cache service or its
Redis is away, the workers that are known stay, and their health alone counts.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog
from grpc.aio import Channel

from localcode.cache.v1 import cache_pb2
from services.router.health import watch_health
from services.router.models import Model, merge
from services.router.worker import RoutedWorker
from services.shared.grpc_runtime import open_channel
from services.shared.pace import until_next

if TYPE_CHECKING:
    from localcode.cache.v1.cache_pb2_grpc import CacheServiceAsyncStub

POLL_SECONDS: Final = 0.5
_SETTLED_POLLS: Final = 4
"""Of that length, how long nothing is asked while there is nothing to learn: each question takes time from decoding."""
_PATIENT_POLLS: Final = 10  # after its own start, while the cache service may be starting too
UNLISTED_SECONDS: Final = 10.0
"""How long a healthy worker stays that is no longer listed: a cache service that restarted hears of it again sooner."""
_LIST_TIMEOUT_SECONDS: Final = 1.0
_log = structlog.get_logger(__name__)


def is_gone(worker: RoutedWorker, listed_addresses: frozenset[str], now: float) -> bool:
    """Says whether a worker that is not listed is to be forgotten."""
    if not worker.is_healthy or worker.registration.address in listed_addresses:  # a new process took its address
        return True
    return worker.unlisted_since is not None and now - worker.unlisted_since > UNLISTED_SECONDS


async def _until_next_poll() -> None:
    await asyncio.sleep(until_next(POLL_SECONDS, time.monotonic()))


class WorkerDirectory:
    """The workers this router may send requests to."""

    def __init__(
        self, cache: "CacheServiceAsyncStub", *, connect: Callable[[str], Channel] = open_channel,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._cache = cache
        self._connect = connect
        self._clock = clock
        self._workers: dict[str, RoutedWorker] = {}
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._listed = asyncio.Event()
        self._seen_models: tuple[Model, ...] = ()
        self._failed_poll_count = 0
        self._waiter_count = 0
        self.is_cache_reachable = False
        self.on_change: Callable[[], None] = lambda: None
        """Called when a worker began to answer, or may have become free."""
        self.is_leaving: Callable[[str], bool] = lambda _model: False
        """Says which models take no new requests because they are about to be unloaded."""
        self.is_awaited: Callable[[], bool] = lambda: False
        """Whether requests wait that another worker could take."""

    @property
    def workers(self) -> list[RoutedWorker]:
        """All known workers, by id."""
        return [self._workers[worker_id] for worker_id in sorted(self._workers)]

    @property
    def seen_models(self) -> tuple[Model, ...]:
        """All models that a worker has registered since the router started."""
        return self._seen_models

    def live(self, model: str) -> list[RoutedWorker]:
        """The workers of a model that take requests now."""
        if self.is_leaving(model):
            return []
        return [worker for worker in self._workers.values() if worker.takes_requests() and worker.runs(model)]

    def open_counts(self) -> dict[str, int]:
        """Requests that this router has open at workers, by model."""
        counts: Counter[str] = Counter()
        for worker in self._workers.values():
            for model in worker.registration.models if worker.open_count else ():
                counts[model.name] += worker.open_count
        return counts

    def live_models(self) -> frozenset[str]:
        """The names of the models that a worker runs now."""
        healthy = (worker for worker in self._workers.values() if worker.is_healthy)
        return frozenset(model.name for worker in healthy for model in worker.registration.models)

    def mark_lost(self, worker: RoutedWorker) -> None:
        """Takes a worker out whose call broke, until its health service answers again."""
        if worker.is_healthy:
            _log.warning("worker_lost", worker_id=worker.worker_id)
        worker.is_healthy = False
        worker.note_failure()
        worker.suspected.set()

    async def wait_for_change(self, timeout_seconds: float) -> None:
        """Returns when a worker came, or after a time."""
        self._waiter_count += 1
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            self._waiter_count -= 1

    async def wait_for_list(self, timeout_seconds: float) -> bool:
        """Says whether the cache service has ever said who lives; waits for its first answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._listed.wait()
        return self._listed.is_set()

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Keeps the directory up to date until left."""
        self._start(self._poll_forever())
        try:
            yield
        finally:
            tasks = [*self._tasks, *self._checks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(worker.channel.close() for worker in self._workers.values()))

    async def _poll_forever(self) -> None:
        while True:
            try:
                await self._poll()
            except Exception:
                _log.exception("poll_failed")  # a router that no longer looks would slowly lose all workers
            await _until_next_poll()
            while self._is_settled and round(time.monotonic() / POLL_SECONDS) % _SETTLED_POLLS:
                await _until_next_poll()

    @property
    def _is_settled(self) -> bool:
        """Whether one worker does all that is to do: then reports of its load help nobody to choose."""
        are_well = all(one.takes_requests() and one.unlisted_since is None for one in self._workers.values())
        return self.is_cache_reachable and len(self._workers) == 1 and are_well and not self._is_waited_for

    @property
    def _is_waited_for(self) -> bool:
        return self._waiter_count > 0 or self.is_awaited()

    async def _poll(self) -> None:
        try:
            answer = await self._cache.ListWorkers(cache_pb2.ListWorkersRequest(), timeout=_LIST_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            self._failed_poll_count += 1
            if self._failed_poll_count == (1 if self._listed.is_set() else _PATIENT_POLLS):
                _log.warning("cache_service_is_away", code=error.code().name)
            self.is_cache_reachable = False
            return
        self.is_cache_reachable = True
        self._failed_poll_count = 0
        self._listed.set()
        self.reconcile(answer.workers)
        if self.is_awaited():
            self.on_change()  # what others leave free shows in reports alone

    def reconcile(self, listed: Sequence[cache_pb2.Worker]) -> None:
        """Adds the workers that are new, updates the known ones and forgets those that left."""
        addresses = frozenset(registration.address for registration in listed)
        ids = {registration.worker_id for registration in listed}
        now = self._clock()
        for worker in [worker for worker in self._workers.values() if worker.worker_id not in ids]:
            worker.unlisted_since = worker.unlisted_since or now
            if is_gone(worker, addresses, now):
                self._forget(worker)
        for registration in listed:
            self._update(registration)
        self._seen_models = merge(self._seen_models, (_model(m) for worker in listed for m in worker.models))

    def _update(self, registration: cache_pb2.Worker) -> None:
        known = self._workers.get(registration.worker_id)
        if known and known.registration.address != registration.address:
            self._forget(known)
            known = None
        if known is None:
            self._add(registration)
        else:
            known.registration = registration
            known.unlisted_since = None

    def _add(self, registration: cache_pb2.Worker) -> None:
        worker = RoutedWorker(registration, self._connect(registration.address), clock=self._clock)
        self._workers[worker.worker_id] = worker
        self._checks[worker.worker_id] = asyncio.create_task(
            watch_health(worker, is_cache_reachable=lambda: self.is_cache_reachable, on_recovery=self._recovered)
        )
        _log.info(
            "worker_found", worker_id=worker.worker_id, address=registration.address,
            models=[model.name for model in registration.models],
        )  # fmt: skip

    def _forget(self, worker: RoutedWorker) -> None:
        del self._workers[worker.worker_id]
        self._checks.pop(worker.worker_id).cancel()
        self._start(_close_when_idle(worker))
        _log.info("worker_left", worker_id=worker.worker_id)

    def _recovered(self) -> None:
        self.on_change()
        self._changed.set()
        self._changed = asyncio.Event()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _close_when_idle(worker: RoutedWorker) -> None:
    try:
        await worker.idle.wait()
    finally:
        await worker.channel.close()


def _model(registered: cache_pb2.WorkerModel) -> Model:
    return Model(registered.name, tuple(registered.aliases), registered.context_length)
