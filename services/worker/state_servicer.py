"""gRPC of a worker for the KV state of its conversations."""

import asyncio
from typing import Any, Final

from localcode.inference.v1 import state_pb2 as pb
from localcode.inference.v1.state_pb2_grpc import StateServiceServicer
from services.shared.errors import InvalidRequest, ModelNotFound, Unsupported
from services.worker.engine import Engine
from services.worker.explain import Explainer
from services.worker.saved_slots import SavedSlots
from services.worker.slots import SlotState

_MOST_EXPLANATIONS: Final = 1000
_LIST_SECONDS: Final = 60.0


class StateServicer(StateServiceServicer):
    """Serves one model's slots; `saved` is None where state can't be stored."""

    def __init__(
        self, engine: Engine, explainer: Explainer, saved: SavedSlots | None, *, names: tuple[str, ...],
        context_length: int,
    ) -> None:  # fmt: skip
        self._engine, self._explainer, self._saved = engine, explainer, saved
        self._names, self._context_length = names, context_length

    async def ListSlots(self, request: pb.ListSlotsRequest, context: Any) -> pb.ListSlotsResponse:
        """Lists all sequences."""
        self._check_model(request.model)
        listed = asyncio.wrap_future(self._engine.call(self._engine.slot_states))
        states = await asyncio.wait_for(listed, _LIST_SECONDS)
        return pb.ListSlotsResponse(slots=map(self._message, states))

    async def SaveSlot(self, request: pb.SaveSlotRequest, context: Any) -> pb.SaveSlotResponse:
        """Stores what a slot holds under a name."""
        moved = await self._saved_of(request.model).save(request.slot_id, request.filename)
        return pb.SaveSlotResponse(token_count=moved.token_count, size_bytes=moved.size_bytes, seconds=moved.seconds)

    async def RestoreSlot(self, request: pb.RestoreSlotRequest, context: Any) -> pb.RestoreSlotResponse:
        """Brings back what has a name."""
        moved = await self._saved_of(request.model).restore(request.slot_id, request.filename)
        return pb.RestoreSlotResponse(token_count=moved.token_count, size_bytes=moved.size_bytes, seconds=moved.seconds)

    async def EraseSlot(self, request: pb.EraseSlotRequest, context: Any) -> pb.EraseSlotResponse:
        """Drops what a slot holds."""
        return pb.EraseSlotResponse(token_count=await self._saved_of(request.model).erase(request.slot_id))

    async def ListExplanations(self, request: pb.ListExplanationsRequest, context: Any) -> pb.ListExplanationsResponse:
        """Tells what became of the last requests in the caches."""
        if request.limit > _MOST_EXPLANATIONS:
            raise InvalidRequest(f"At most {_MOST_EXPLANATIONS} requests.", param="limit")
        return pb.ListExplanationsResponse(requests=self._explainer.last(request.limit))

    def _saved_of(self, model: str) -> SavedSlots:
        self._check_model(model)
        if self._saved is None:
            raise Unsupported(
                f"The state of {self._names[0]!r} can't be saved by slot: kv_store or ram_bytes is off, or its memory "
                "can't be cut into blocks."
            )
        return self._saved

    def _message(self, state: SlotState) -> pb.Slot:
        return pb.Slot(
            id=state.id, worker_id=self._explainer.worker_id, is_processing=state.is_processing,
            request_id=state.request_id, filename=state.filename, task_number=state.task_number,
            token_count=state.token_count, prompt_token_count=state.prompt_token_count,
            generated_token_count=state.generated_count, context_length=self._context_length,
        )  # fmt: skip

    def _check_model(self, name: str) -> None:
        if name and name not in self._names:
            raise ModelNotFound(f"The model {name!r} is not served here; try {', '.join(self._names)}.", param="model")
