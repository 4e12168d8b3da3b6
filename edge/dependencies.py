"""What the routes work with."""

from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import Depends
from starlette.requests import Request
from starlette.responses import Response

from edge.auth import check_api_key
from edge.client import InferenceClient
from edge.logs import ConversationLog, UnknownFields
from edge.metrics import EdgeMetrics
from edge.settings import EdgeSettings


@dataclass(frozen=True)
class Edge:
    """All that lives as long as the process."""

    settings: EdgeSettings
    client: InferenceClient
    metrics: EdgeMetrics
    log: ConversationLog
    unknown_fields: UnknownFields
    started_at: float


async def get_edge(request: Request) -> Edge:
    """Finds the edge that a request came to."""
    edge: Edge = request.app.state.edge
    return edge


EdgeDep = Annotated[Edge, Depends(get_edge)]


async def require_api_key(request: Request, edge: EdgeDep) -> None:
    """Refuses requests without a valid key."""
    check_api_key(request.headers, edge.settings.api_keys)


def json_response(content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answers with JSON."""
    return Response(orjson.dumps(content), status_code=status, headers=headers, media_type="application/json")
