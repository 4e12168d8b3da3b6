"""gRPC of `localcode up`: routers say what they need of the local models, and hear where these are."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any, Final

from grpc import StatusCode

from cli.model_keeper import Keeping, ModelKeeper, Use
from cli.residency import State
from localcode.inference.v1 import inference_pb2 as pb
from localcode.supervisor.v1 import supervisor_pb2
from localcode.supervisor.v1.supervisor_pb2_grpc import (
    SupervisorServiceServicer,
    add_SupervisorServiceServicer_to_server,
)
from services.shared.errors import ModelNotFound, ServiceError
from services.shared.grpc_runtime import HealthService, running_server

_STATES: Final = {
    State.UNLOADED: pb.MODEL_STATE_UNLOADED,
    State.LOADING: pb.MODEL_STATE_LOADING,
    State.LOADED: pb.MODEL_STATE_LOADED,
    State.DRAINING: pb.MODEL_STATE_UNLOADING,
    State.ENDING: pb.MODEL_STATE_UNLOADING,
}


class ModelPinned(ServiceError):
    """The model stays loaded, whoever asks."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "model_pinned"


class SupervisorServicer(SupervisorServiceServicer):
    """Translates calls to the keeper; decides nothing itself."""

    def __init__(self, keeper: ModelKeeper) -> None:
        self._keeper = keeper

    async def ReportUse(
        self, request: supervisor_pb2.ReportUseRequest, context: Any
    ) -> supervisor_pb2.ReportUseResponse:
        """Takes what a router does with the models, and says where they are."""
        uses = {use.model: Use(use.open_count, use.waiting_count) for use in request.uses}
        self._keeper.report(request.router_id, uses)
        return supervisor_pb2.ReportUseResponse(models=map(managed, self._keeper.models.values()))

    async def LoadModel(
        self, request: supervisor_pb2.LoadModelRequest, context: Any
    ) -> supervisor_pb2.LoadModelResponse:
        """Begins to load a model, or notes that it is wanted."""
        self._keeper.load(self._model(request.model).plan.name)
        await self._keeper.step()
        return supervisor_pb2.LoadModelResponse(model=managed(self._model(request.model)))

    async def UnloadModel(
        self, request: supervisor_pb2.UnloadModelRequest, context: Any
    ) -> supervisor_pb2.UnloadModelResponse:
        """Begins to unload a model."""
        model = self._model(request.model)
        if model.plan.is_pinned:
            raise ModelPinned(f"The model {request.model!r} is pinned: localcode.toml says that it stays loaded.")
        self._keeper.unload(model.plan.name)
        return supervisor_pb2.UnloadModelResponse(model=managed(model))

    def _model(self, name: str) -> Keeping:
        model = self._keeper.models.get(name)
        if model is None:
            raise ModelNotFound(f"This machine does not run the model {name!r}.", param="model")
        return model


def managed(model: Keeping) -> supervisor_pb2.ManagedModel:
    """Says a model's state on the wire."""
    is_waiting = model.state is State.UNLOADED and (model.asked_since or model.waited_since) and not model.problem
    return supervisor_pb2.ManagedModel(
        name=model.plan.name,
        state=pb.MODEL_STATE_WAITING if is_waiting else _STATES[model.state],
        pinned=model.plan.is_pinned,
        memory_bytes=model.plan.memory_bytes,
        loading_seconds=monotonic() - model.state_since if model.state is State.LOADING else 0.0,
        expected_loading_seconds=model.loading_seconds,
        problem=model.problem,
    )


@asynccontextmanager
async def serving_models(keeper: ModelKeeper, address: str) -> AsyncIterator[None]:
    """Keeps the models, and serves routers at an address, until left."""
    register = partial(add_SupervisorServiceServicer_to_server, SupervisorServicer(keeper))
    running = asyncio.create_task(keeper.run())
    health = HealthService()
    try:
        async with running_server(address, register, health_service=health, stop_grace_seconds=0.0):
            await health.set_serving(True)
            yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
