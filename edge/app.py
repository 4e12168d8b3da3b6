"""Assembles the HTTP application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import time

import grpc
from fastapi import FastAPI
from rich.console import Console
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from edge.client import open_inference_client
from edge.dependencies import Edge
from edge.errors import ApiError, api_error, error_response
from edge.log_events import failure_event
from edge.logs import ConversationLog, UnknownFields
from edge.metrics import EdgeMetrics
from edge.middleware import REQUEST_ID_HEADER, RequestScope
from edge.route_headers import MODEL_HEADER, ROUTE_HEADER
from edge.routes import chat, health, metrics, models, route, slots
from edge.settings import EdgeSettings
from edge.sse import ClientDisconnected
from services.shared.errors import ServiceError
from services.shared.settings import LogSettings

_CLIENT_CLOSED_REQUEST = 499


def build_app(settings: EdgeSettings, log_settings: LogSettings) -> FastAPI:
    """Builds the application; it connects to the router when it is started."""
    edge_metrics = EdgeMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_inference_client(
            settings.router_addresses,
            generate_timeout_seconds=settings.generate_timeout_seconds,
            status_timeout_seconds=settings.status_timeout_seconds,
        ) as client:
            log = ConversationLog(log_settings, console=Console(stderr=True))
            app.state.edge = Edge(settings, client, edge_metrics, log, UnknownFields(), started_at=time())
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    for router in (chat.router, models.router, route.router, slots.router, health.router, metrics.router):
        app.include_router(router)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=(REQUEST_ID_HEADER, MODEL_HEADER, ROUTE_HEADER),
        )
    app.add_middleware(RequestScope, metrics=edge_metrics)
    app.add_exception_handler(ServiceError, _refuse)
    app.add_exception_handler(grpc.aio.AioRpcError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)
    for gone in (ClientDisconnect, ClientDisconnected):
        app.add_exception_handler(gone, _nobody_listens)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    seen = api_error(error)
    edge: Edge = request.app.state.edge
    edge.log.write(lambda _: failure_event(request.state.request_id, seen))
    return error_response(seen)


async def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path}"
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    seen = ApiError(error.status_code, message, "invalid_request_error", code)
    return error_response(seen, headers=dict(error.headers or {}))


async def _nobody_listens(_request: Request, _error: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)
