"""Where the models are that a supervisor loads and unloads; tells it which ones are in use or waited for."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import grpc
import structlog
from grpc import StatusCode

from localcode.inference.v1 import inference_pb2 as pb
from localcode.supervisor.v1 import supervisor_pb2
from services.shared.errors import ServiceError
from services.shared.pace import until_next

if TYPE_CHECKING:
    from localcode.supervisor.v1.supervisor_pb2_grpc import SupervisorServiceAsyncStub

REPORT_SECONDS: Final = 0.5
_SETTLED_REPORTS: Final = 2
"""Of those times, how long nothing is reported while models stay where they are and no use of them begins or ends; the
supervisor counts on it (`SETTLE_SECONDS`)."""
_WANT_SECONDS: Final = 3.0
"""How long a wish counts that nobody repeats."""
_APPEAR_SECONDS: Final = 5.0
"""How long a model may take from being loaded to being listed."""
_CALL_TIMEOUT_SECONDS: Final = 2.0
_LOAD_TIMEOUT_SECONDS: Final = 5.0
_OUT: Final = frozenset({pb.MODEL_STATE_UNLOADING, pb.MODEL_STATE_UNLOADED, pb.MODEL_STATE_WAITING})
_STAYING: Final = frozenset({pb.MODEL_STATE_LOADED, pb.MODEL_STATE_UNLOADED})
_log = structlog.get_logger(__name__)


class ModelsFixed(ServiceError):
    """Models don't come and go here."""

    code = StatusCode.UNIMPLEMENTED
    reason = "models_fixed"


class Residency:
    """The models of this machine; without a supervisor none, for workers are started and stopped by others then."""

    def __init__(
        self, supervisor: "SupervisorServiceAsyncStub | None", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._supervisor = supervisor
        self._clock = clock
        self._router_id = uuid.uuid4().hex
        self._models: dict[str, supervisor_pb2.ManagedModel] = {}
        self._wanted: dict[str, float] = {}
        self._loaded_at: dict[str, float] = {}
        self._due = asyncio.Event()
        self._is_reachable = True
        self.open_counts: Callable[[], Mapping[str, int]] = dict
        """Requests that workers work on, by model."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when a model may have become free to use."""

    @property
    def loadable(self) -> list[str]:
        """The models that are not loaded, but are when someone asks for them."""
        return [name for name, model in self._models.items() if model.state in _OUT and not model.problem]

    def find(self, model: str) -> supervisor_pb2.ManagedModel | None:
        """Where a model is; none if it doesn't come and go."""
        return self._models.get(model)

    def is_leaving(self, model: str) -> bool:
        """Whether a model takes no new requests because it is about to be unloaded."""
        found = self._models.get(model)
        return found is not None and found.state == pb.MODEL_STATE_UNLOADING

    def can_come(self, model: str) -> bool:
        """Whether a model that does not run will, if someone waits for it."""
        found = self._models.get(model)
        if found is None or found.problem:
            return False
        if found.state == pb.MODEL_STATE_LOADED:
            return self._clock() - self._loaded_at.get(model, 0.0) < _APPEAR_SECONDS
        return True

    def want(self, model: str) -> None:
        """Notes that a request waits for a model; the first one is reported at once."""
        if model not in self._wanted:
            self._due.set()
        self._wanted[model] = self._clock()

    def seconds_to_load(self, model: str) -> float:
        """How long a request would wait for a model to be loaded, as far as that is known."""
        found = self._models.get(model)
        if found is None or found.state == pb.MODEL_STATE_LOADED:
            return 0.0
        return max(found.expected_loading_seconds - found.loading_seconds, 0.0)

    def progress(self, model: str) -> pb.Progress:
        """What a request for a model that does not run is waiting for."""
        found = self._models.get(model, supervisor_pb2.ManagedModel())
        phase = pb.PHASE_MEMORY if found.state == pb.MODEL_STATE_WAITING else pb.PHASE_LOADING
        return pb.Progress(
            phase=phase, model=model, loading_seconds=found.loading_seconds,
            expected_loading_seconds=found.expected_loading_seconds,
        )  # fmt: skip

    async def load(self, model: str) -> supervisor_pb2.ManagedModel:
        """Asks for a model to be loaded."""
        request = supervisor_pb2.LoadModelRequest(model=model)
        return (await self._stub(model).LoadModel(request, timeout=_LOAD_TIMEOUT_SECONDS)).model

    async def unload(self, model: str) -> supervisor_pb2.ManagedModel:
        """Asks for a model to be unloaded when its answers are whole."""
        request = supervisor_pb2.UnloadModelRequest(model=model)
        return (await self._stub(model).UnloadModel(request, timeout=_LOAD_TIMEOUT_SECONDS)).model

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Reports, and follows the models, until left."""
        if self._supervisor is None:
            yield
            return
        reporting = asyncio.create_task(self._report_forever(self._supervisor))
        try:
            yield
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)

    def _stub(self, model: str) -> "SupervisorServiceAsyncStub":
        if self._supervisor is None or (self._models and model not in self._models):
            raise ModelsFixed(
                f"The model {model!r} is not loaded and unloaded by this server: its workers are started and stopped "
                "where they run."
            )
        return self._supervisor

    async def _report_forever(self, supervisor: "SupervisorServiceAsyncStub") -> None:
        while True:
            uses = self._uses()
            await self._report(supervisor, uses)
            await self._pause_until_next()
            while (
                self._is_settled
                and self._uses() == uses
                and round(time.monotonic() / REPORT_SECONDS) % _SETTLED_REPORTS
            ):
                await self._pause_until_next()
            self._due.clear()

    async def _pause_until_next(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(until_next(REPORT_SECONDS, time.monotonic())):
                await self._due.wait()

    @property
    def _is_settled(self) -> bool:
        return not self._wanted and bool(self._models) and all(one.state in _STAYING for one in self._models.values())

    async def _report(self, supervisor: "SupervisorServiceAsyncStub", uses: Sequence[supervisor_pb2.ModelUse]) -> None:
        request = supervisor_pb2.ReportUseRequest(router_id=self._router_id, uses=uses)
        try:
            answer = await supervisor.ReportUse(request, timeout=_CALL_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if self._is_reachable:
                _log.warning("supervisor_is_away", code=error.code().name)
            self._is_reachable = False
            return
        self._is_reachable = True
        self._take(answer.models)

    def _take(self, models: Iterable[supervisor_pb2.ManagedModel]) -> None:
        old, self._models = self._models, {model.name: model for model in models}
        for name, model in self._models.items():
            was_loaded = name in old and old[name].state == pb.MODEL_STATE_LOADED
            if model.state == pb.MODEL_STATE_LOADED and not was_loaded:
                self._loaded_at[name] = self._clock()
                self.on_change()

    def _uses(self) -> list[supervisor_pb2.ModelUse]:
        now, open_counts = self._clock(), self.open_counts()
        self._wanted = {model: at for model, at in self._wanted.items() if now - at < _WANT_SECONDS}
        return [
            supervisor_pb2.ModelUse(
                model=model, open_count=open_counts.get(model, 0), waiting_count=int(model in self._wanted)
            )
            for model in sorted({*self._wanted, *open_counts})
        ]
