"""The state of conversations on all workers of a model: slots are numbered through, and calls go where a slot is."""

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import grpc

from localcode.inference.v1 import state_pb2 as pb
from localcode.inference.v1.state_pb2_grpc import StateServiceServicer
from services.router.models import AUTO, Model, default_model, merge, named
from services.router.settings import RouterSettings
from services.router.worker import RoutedWorker
from services.router.workers import WorkerDirectory
from services.shared.errors import InvalidRequest, NoWorker, Unsupported

_LIST_SECONDS: Final = 10.0
_CALL_SECONDS: Final = 120.0
_MISSING: Final = frozenset({grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE})


def numbered(listed: Sequence[Sequence[pb.Slot]]) -> list[pb.Slot]:
    """Numbers the slots of several workers through."""
    found: list[pb.Slot] = []
    for slot in chain.from_iterable(listed):
        shown = pb.Slot()
        shown.CopyFrom(slot)
        shown.id = len(found)
        found.append(shown)
    return found


def located(listed: Sequence[Sequence[pb.Slot]], slot_id: int) -> tuple[int, int]:
    """Finds the worker, by its place in the list, and its own number of a slot. Raises `InvalidRequest`."""
    left = slot_id
    for place, slots in enumerate(listed):
        if left < len(slots):
            return place, slots[left].id
        left -= len(slots)
    raise InvalidRequest(f"There is no slot {slot_id}; they are 0 to {slot_id - left - 1}.", param="id_slot")


class StateServicer(StateServiceServicer):
    """Serves the slots of all workers as one."""

    def __init__(self, settings: RouterSettings, configured: tuple[Model, ...], workers: WorkerDirectory) -> None:
        self._defaults, self._configured, self._workers = settings.defaults, configured, workers

    async def ListSlots(self, request: pb.ListSlotsRequest, context: Any) -> pb.ListSlotsResponse:
        """Lists the slots of all workers of a model."""
        _, listed = await self._slots(request.model)
        return pb.ListSlotsResponse(slots=numbered(listed))

    async def SaveSlot(self, request: pb.SaveSlotRequest, context: Any) -> pb.SaveSlotResponse:
        """Lets the slot's worker save it."""
        answer: pb.SaveSlotResponse = await self._call("SaveSlot", request)
        return answer

    async def RestoreSlot(self, request: pb.RestoreSlotRequest, context: Any) -> pb.RestoreSlotResponse:
        """Lets the slot's worker restore it."""
        answer: pb.RestoreSlotResponse = await self._call("RestoreSlot", request)
        return answer

    async def EraseSlot(self, request: pb.EraseSlotRequest, context: Any) -> pb.EraseSlotResponse:
        """Lets the slot's worker erase it."""
        answer: pb.EraseSlotResponse = await self._call("EraseSlot", request)
        return answer

    async def ListExplanations(self, request: pb.ListExplanationsRequest, context: Any) -> pb.ListExplanationsResponse:
        """Tells of the last requests of all workers."""
        healthy = [worker for worker in self._workers.workers if worker.is_healthy]
        answers = await asyncio.gather(*(_explanations(worker, request) for worker in healthy))
        told = sorted((one for answer in answers for one in answer), key=lambda one: one.finished_at, reverse=True)
        return pb.ListExplanationsResponse(requests=told[: request.limit or None])

    async def _call(self, method: str, request: Any) -> Any:
        workers, listed = await self._slots(request.model)
        place, slot_id = located(listed, request.slot_id)
        asked = type(request)()
        asked.CopyFrom(request)
        asked.model, asked.slot_id = "", slot_id
        return await getattr(workers[place].state_stub, method)(asked, timeout=_CALL_SECONDS)

    async def _slots(self, requested: str) -> tuple[list[RoutedWorker], list[list[pb.Slot]]]:
        """The workers of a model, by id, and the slots of each."""
        known = merge(self._configured, self._workers.seen_models)
        is_default = requested in ("", AUTO)
        model = default_model(known, self._defaults) if is_default else named(requested, known)
        workers = [worker for worker in self._workers.workers if worker.is_healthy and worker.runs(model)]
        if not workers:
            raise NoWorker(f"No worker runs the model {model!r} now.", retry_after_seconds=5.0)
        listed = await asyncio.gather(*map(_listed, workers))
        if not any(listed):
            raise Unsupported(f"The model {model!r} has no slots: its state is with its remote.")
        return workers, listed


async def _listed(worker: RoutedWorker) -> list[pb.Slot]:
    try:
        return list((await worker.state_stub.ListSlots(pb.ListSlotsRequest(), timeout=_LIST_SECONDS)).slots)
    except grpc.aio.AioRpcError as error:
        if error.code() in _MISSING:
            return []
        raise


async def _explanations(worker: RoutedWorker, request: pb.ListExplanationsRequest) -> list[pb.ExplainedRequest]:
    try:
        return list((await worker.state_stub.ListExplanations(request, timeout=_LIST_SECONDS)).requests)
    except grpc.aio.AioRpcError as error:
        if error.code() in _MISSING:
            return []
        raise
