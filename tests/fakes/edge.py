"""A real edge under a real HTTP server on a loopback port, in front of a fake inference service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from edge.__main__ import listen
from edge.app import build_app
from edge.settings import EdgeSettings
from services.shared.settings import LogSettings

QUIET = LogSettings(level="warning", format="json")


@asynccontextmanager
async def serving_edge(router_address: str, *, log: LogSettings = QUIET, **settings: Any) -> AsyncIterator[str]:
    """Serves an edge and yields its base URL."""
    app = build_app(EdgeSettings(router_address=router_address, **settings), log)
    config = uvicorn.Config(
        app, http="httptools", lifespan="on", log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    listener = listen("127.0.0.1", 0)
    serving = asyncio.create_task(server._serve([listener]))
    try:
        while not server.started:  # noqa: ASYNC110  # uvicorn offers no event
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()
