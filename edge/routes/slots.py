"""`GET /slots` and `POST /slots/{id}`: the state of conversations by slot, in the form of llama-server.

Facts: `tools/server/README.md` of llama.cpp.
"""

from typing import Any, Final

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from edge.body import read_json_object
from edge.dependencies import Edge, EdgeDep, json_response, require_api_key
from localcode.inference.v1 import state_pb2 as pb
from services.shared.errors import InvalidRequest
from services.shared.names import checked_name

router = APIRouter(dependencies=[Depends(require_api_key)])
_ACTIONS: Final = ("save", "restore", "erase")
_MOST: Final = 2**31 - 1


@router.get("/slots")
async def list_slots(edge: EdgeDep, model: str = "") -> Response:
    """Lists the slots of a model: its own sequences and finished conversations."""
    answer = await edge.client.state(lambda stub: stub.ListSlots, pb.ListSlotsRequest(model=model))
    return json_response([slot_object(slot) for slot in answer.slots])


@router.post("/slots/{slot_id}")
async def act_on_slot(slot_id: str, request: Request, edge: EdgeDep, action: str = "", model: str = "") -> Response:
    """Saves what a slot holds, restores it, or erases it."""
    number = _number(slot_id)
    if action not in _ACTIONS:
        raise InvalidRequest(f"'action' must be one of {', '.join(_ACTIONS)}, not {action!r}.", param="action")
    if action == "erase":
        asked = pb.EraseSlotRequest(model=model, slot_id=number)
        erased = await edge.client.state(lambda stub: stub.EraseSlot, asked)
        return json_response({"id_slot": number, "n_erased": erased.token_count})
    filename = await _filename(request, edge)
    if action == "save":
        saving = pb.SaveSlotRequest(model=model, slot_id=number, filename=filename)
        saved = await edge.client.state(lambda stub: stub.SaveSlot, saving)
        counts = {"n_saved": saved.token_count, "n_written": saved.size_bytes}
        return json_response(_moved(number, filename, counts, {"save_ms": saved.seconds * 1000}))
    restoring = pb.RestoreSlotRequest(model=model, slot_id=number, filename=filename)
    restored = await edge.client.state(lambda stub: stub.RestoreSlot, restoring)
    counts = {"n_restored": restored.token_count, "n_read": restored.size_bytes}
    return json_response(_moved(number, filename, counts, {"restore_ms": restored.seconds * 1000}))


def slot_object(slot: pb.Slot) -> dict[str, Any]:
    """A slot by llama-server's names; `worker_id`, `request_id`, `filename` and `n_tokens` are extensions."""
    return {
        "id": slot.id,
        "id_task": slot.task_number - 1,
        "n_ctx": slot.context_length,
        "is_processing": slot.is_processing,
        "n_prompt_tokens": slot.prompt_token_count,
        "next_token": [{"has_next_token": slot.is_processing, "n_decoded": slot.generated_token_count}],
        "n_tokens": slot.token_count,
        "request_id": slot.request_id,
        "filename": slot.filename,
        "worker_id": slot.worker_id,
    }


def _moved(number: int, filename: str, counts: dict[str, int], timings: dict[str, float]) -> dict[str, Any]:
    return {"id_slot": number, "filename": filename, **counts, "timings": timings}


def _number(slot_id: str) -> int:
    if not (slot_id.isascii() and slot_id.isdigit()) or int(slot_id[:11]) > _MOST:
        raise InvalidRequest(f"A slot has a number, not {slot_id!r}.", param="id_slot")
    return int(slot_id[:11])


async def _filename(request: Request, edge: Edge) -> str:
    body = await read_json_object(request, max_bytes=edge.settings.max_body_bytes)
    filename = body.get("filename")
    if not isinstance(filename, str):
        raise InvalidRequest("'filename' must be a text: the name to save under.", param="filename")
    return checked_name(filename)
