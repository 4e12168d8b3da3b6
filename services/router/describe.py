"""What the models of all workers can do, and those that are configured but do not run now."""

import asyncio
from collections.abc import Sequence

from localcode.inference.v1 import inference_pb2 as pb
from localcode.router.v1 import router_pb2
from services.router.models import Model
from services.router.residency import Residency
from services.router.routes import Choice
from services.router.workers import WorkerDirectory


def route_response(request_class: str, choice: Choice) -> router_pb2.RouteResponse:
    """Says a decision on the wire."""
    return router_pb2.RouteResponse(
        routed=pb.Routed(model=choice.model, request_class=request_class, reasons=choice.reasons),
        considered=[
            router_pb2.ConsideredModel(
                model=one.model,
                obstacle=one.obstacle,
                first_token_seconds=one.first_token_seconds,
                reason=one.reason,
            )
            for one in choice.considered
        ],
    )


class Describer:
    """Remembers how models were described, so that one whose worker restarts keeps its description."""

    def __init__(self, residency: Residency) -> None:
        self._residency = residency
        self._known: dict[str, pb.ModelDescription] = {}

    async def describe(
        self, models: Sequence[Model], workers: WorkerDirectory, *, default: str
    ) -> list[pb.ModelDescription]:
        """Describes models, the default first; one that does not run has no time of loading."""
        answers = await asyncio.gather(*(worker.descriptions() for worker in workers.workers if worker.is_healthy))
        for description in (description for answer in answers for description in answer):
            self._known[description.name] = description
        live = workers.live_models()
        ordered = sorted(models, key=lambda model: model.name != default)
        return [self._description(model, is_live=model.name in live) for model in ordered]

    def _description(self, model: Model, *, is_live: bool) -> pb.ModelDescription:
        description = pb.ModelDescription(name=model.name, context_length=model.context_length)
        if known := self._known.get(model.name):
            description.CopyFrom(known)
        description.aliases[:] = dict.fromkeys((*description.aliases, *model.aliases))
        if not is_live:
            description.loaded_at_seconds = 0
        description.state = pb.MODEL_STATE_LOADED if is_live else pb.MODEL_STATE_UNLOADED
        if managed := self._residency.find(model.name):
            description.state, description.pinned = managed.state, managed.pinned
        return description
