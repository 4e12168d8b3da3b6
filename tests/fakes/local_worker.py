"""A worker with a model of its own, served over real gRPC on a loopback port in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from services.shared.grpc_runtime import HealthService, running_server
from services.worker.__main__ import _explainer, _limits, _services
from services.worker.engine import Engine
from services.worker.loading import load
from services.worker.servicer import Mailbox
from services.worker.settings import WorkerSettings


@asynccontextmanager
async def serving_worker(model_path: Path, **settings: Any) -> AsyncIterator[str]:
    """Loads a model and yields the worker's address."""
    configured = WorkerSettings(
        **{"name": "local", "model_path": model_path, "threads": 1, "context": 4096, **settings}
    )
    loaded = await asyncio.to_thread(load, configured)
    post = Mailbox(asyncio.get_running_loop()).post
    engine = Engine(loaded.model, loaded.context, loaded.pool, loaded.lock, _limits(configured), post)
    await asyncio.to_thread(engine.start)
    explainer = _explainer(configured, loaded, "worker-1", shows_content=True)
    health = HealthService()
    try:
        async with running_server(
            "127.0.0.1:0",
            _services(configured, loaded, engine, explainer),
            health_service=health,
            stop_grace_seconds=0.1,
        ) as address:
            await health.set_serving(True)
            yield address
    finally:
        engine.stop()
