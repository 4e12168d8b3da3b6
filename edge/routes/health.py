"""`GET /health` and `GET /`."""

from dataclasses import dataclass, field
from importlib.metadata import version
from time import time
from typing import Any, Final

import grpc
from fastapi import APIRouter
from starlette.responses import Response

from edge.client import InferenceClient
from edge.dependencies import Edge, EdgeDep, json_response
from localcode.inference.v1 import inference_pb2 as pb
from localcode.router.v1 import router_pb2

router = APIRouter()
VERSION: Final = version("localcode-server")


@dataclass(frozen=True)
class SystemState:
    """What is known of the processes behind the edge."""

    router: str
    cache: str
    model: str = ""
    workers: list[dict[str, Any]] = field(default_factory=list)
    can_load: bool = False
    """Whether a model would be loaded for a request."""

    @property
    def status(self) -> str:
        """`ok`; `degraded` where something is missing; `unavailable` where nothing can answer."""
        can_answer = self.can_load or any(worker["healthy"] and not worker["draining"] for worker in self.workers)
        if not can_answer:
            return "unavailable"
        is_whole = self.cache != "unreachable" and all(worker["healthy"] for worker in self.workers)
        return "ok" if is_whole else "degraded"


@router.get("/")
async def get_root() -> Response:
    """Says what this is."""
    endpoints = ["/v1/chat/completions", "/v1/models", "/slots", "/health", "/metrics"]
    return json_response({"name": "LocalCode", "version": VERSION, "endpoints": endpoints})


@router.get("/health")
async def get_health(edge: EdgeDep) -> Response:
    """Reports the state of each service; 503 only where nothing can answer."""
    state = await _state(edge.client)
    body = {
        "status": state.status,
        "provider": "LocalCode",
        "model": state.model,
        "services": {
            "edge": _edge(edge),
            "router": {"status": state.router},
            "cache": {"status": state.cache},
            "workers": state.workers,
        },
    }
    return json_response(body, status=503 if state.status == "unavailable" else 200)


async def _state(client: InferenceClient) -> SystemState:
    try:
        status = await client.router_status()
        if status is not None:
            return system_of_router(status)
        return system_of_worker(await client.models(), is_serving=await client.is_serving())
    except grpc.aio.AioRpcError:
        return SystemState(router="unreachable", cache="unknown")


def system_of_router(status: router_pb2.GetStatusResponse) -> SystemState:
    """Reads the state of the system from the router's view."""
    names = [model.name for worker in status.workers for model in worker.worker.models]
    return SystemState(
        router="ok",
        cache="ok" if status.cache_reachable else "unreachable",
        model=status.default_model or next(iter(names), ""),
        workers=[_worker(worker) for worker in status.workers],
        can_load=bool(status.loadable_models),
    )


def system_of_worker(models: list[pb.ModelDescription], *, is_serving: bool) -> SystemState:
    """Reads the state of the system where the edge is pointed at a single worker."""
    names = [model.name for model in models]
    worker = {"models": names, "healthy": is_serving, "draining": False}
    return SystemState(router="none", cache="none", model=next(iter(names), ""), workers=[worker])


def _edge(edge: Edge) -> dict[str, Any]:
    return {"status": "ok", "version": VERSION, "uptime_seconds": round(time() - edge.started_at, 1)}


def _worker(status: router_pb2.WorkerStatus) -> dict[str, Any]:
    worker = status.worker
    return {
        "worker_id": worker.worker_id,
        "address": worker.address,
        "models": [model.name for model in worker.models],
        "healthy": status.healthy,
        "draining": worker.draining,
        "running": worker.load.running_count,
        "waiting": worker.load.waiting_count,
        "open_requests": status.open_request_count,
    }
