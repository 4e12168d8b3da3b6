"""`/v1/models`: which models there are, and loading and unloading them."""

from typing import Any, Final

from fastapi import APIRouter, Depends
from starlette.responses import Response

from edge.dependencies import EdgeDep, json_response, require_api_key
from localcode.inference.v1 import inference_pb2 as pb
from localcode.supervisor.v1 import supervisor_pb2
from services.shared.errors import ModelNotFound

router = APIRouter(dependencies=[Depends(require_api_key)])
_CAPABILITIES: Final = {
    pb.CAPABILITY_CHAT: "chat",
    pb.CAPABILITY_TOOLS: "tools",
    pb.CAPABILITY_VISION: "vision",
    pb.CAPABILITY_FIM: "fim",
    pb.CAPABILITY_EMBEDDING: "embedding",
    pb.CAPABILITY_RERANK: "rerank",
}


_STATES: Final = {
    pb.MODEL_STATE_LOADED: "loaded",
    pb.MODEL_STATE_LOADING: "loading",
    pb.MODEL_STATE_UNLOADING: "unloading",
    pb.MODEL_STATE_UNLOADED: "unloaded",
    pb.MODEL_STATE_WAITING: "waiting",
}


@router.get("/v1/models")
async def list_models(edge: EdgeDep) -> Response:
    """Lists the models and their aliases, the default first."""
    return json_response({"object": "list", "data": entries(await edge.client.models())})


@router.get("/v1/models/{model_id:path}")
async def get_model(model_id: str, edge: EdgeDep) -> Response:
    """Describes one model."""
    for entry in entries(await edge.client.models()):
        if entry["id"] == model_id:
            return json_response(entry)
    raise ModelNotFound(f"The model '{model_id}' does not exist.", param="model")


@router.post("/v1/models/{model_id:path}/load")
async def load_model(model_id: str, edge: EdgeDep) -> Response:
    """Asks for a model to be loaded: 200 if it is, 202 if it will be."""
    return _managed(await edge.client.load_model(model_id), wanted=pb.MODEL_STATE_LOADED)


@router.post("/v1/models/{model_id:path}/unload")
async def unload_model(model_id: str, edge: EdgeDep) -> Response:
    """Asks for a model to be unloaded: 200 if it is, 202 if it will be when its answers are whole."""
    return _managed(await edge.client.unload_model(model_id), wanted=pb.MODEL_STATE_UNLOADED)


def _managed(model: supervisor_pb2.ManagedModel, *, wanted: "pb.ModelState.ValueType") -> Response:
    body = {
        "id": model.name,
        "object": "model",
        "state": _STATES.get(model.state, ""),
        "pinned": model.pinned,
        "memory_bytes": model.memory_bytes,
        "problem": model.problem or None,
    }
    return json_response(body, status=200 if model.state == wanted else 202)


def entries(models: list[pb.ModelDescription]) -> list[dict[str, Any]]:
    """Makes one entry for each name of each model."""
    return [_entry(name, model) for model in models for name in (model.name, *model.aliases)]


def _entry(name: str, model: pb.ModelDescription) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": model.loaded_at_seconds,
        "owned_by": model.owner or "localcode",
        "root": model.name,
        "aliases": list(model.aliases),
        "context_length": model.context_length,
        "max_model_len": model.context_length,
        "n_ctx": model.context_length,
        "capabilities": [_CAPABILITIES[capability] for capability in model.capabilities if capability in _CAPABILITIES],
        "state": _STATES.get(model.state) or ("loaded" if model.loaded_at_seconds else "unloaded"),
        "pinned": model.pinned,
        "meta": {"n_ctx": model.context_length, "n_params": model.parameter_count, "size": model.size_bytes},
    }
