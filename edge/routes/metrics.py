"""`GET /metrics`."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from edge.dependencies import EdgeDep

router = APIRouter()


@router.get("/metrics")
async def get_metrics(edge: EdgeDep) -> Response:
    """Reports metrics in Prometheus's text form."""
    return Response(generate_latest(edge.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})
