"""Runs a worker: `LOCALCODE_WORKER_NAME=coder python -m services.worker`."""

import asyncio
import os
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import structlog

from localcode.cache.v1 import cache_pb2
from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from services.shared.block_client import open_block_client
from services.shared.grpc_runtime import HealthService, running_server, wait_for_stop_signal
from services.shared.keyring import KEY_FILE, KEY_VARIABLE, load_keyring
from services.shared.registration import registered
from services.shared.settings import ConfigurationError, LogSettings, load_document, load_settings
from services.shared.telemetry import configure_logging, serve_metrics
from services.worker import metrics
from services.worker.chat_template import CHATML
from services.worker.engine import Engine, EngineLimits
from services.worker.llama import LoadFailed, device_names
from services.worker.loading import Loaded, load
from services.worker.prompt_layout import template_of
from services.worker.prompts import Preparer
from services.worker.servicer import InferenceServicer, Mailbox
from services.worker.settings import WorkerSettings
from services.worker.speculation import SpeculationOptions
from services.worker.stored_tier import StoredTier
from services.worker.watchdog import watch

_log = structlog.get_logger(__name__)


def main() -> None:
    """Reads the settings and serves until told to stop."""
    try:
        document = load_document()
        name = os.environ.get("LOCALCODE_WORKER_NAME", "")
        settings = load_settings(WorkerSettings, "models", name, document=document)
        configure_logging(load_settings(LogSettings, "log", document=document), process=f"worker-{settings.name}")
        asyncio.run(_serve(settings))
    except (ConfigurationError, LoadFailed) as error:
        sys.exit(str(error))


async def _serve(settings: WorkerSettings) -> None:
    started = time.monotonic()
    loaded = await asyncio.to_thread(load, settings)
    engine = Engine(
        loaded.model, loaded.context, loaded.pool, loaded.lock, _limits(settings),
        Mailbox(asyncio.get_running_loop()).post, loaded.draft_model,
    )  # fmt: skip
    await asyncio.to_thread(engine.start)
    _log.info(
        "model_loaded", model=settings.name, seconds=round(time.monotonic() - started, 2), context=loaded.size.context,
        kv_cells=loaded.size.cells, slots=settings.slots, threads=loaded.threads, devices=device_names() or ["CPU"],
    )  # fmt: skip
    try:
        await _serve_engine(settings, loaded, engine)
    finally:
        engine.stop()


async def _serve_engine(settings: WorkerSettings, loaded: Loaded, engine: Engine) -> None:
    worker_id = f"{settings.name}-{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    health = HealthService()
    metrics.observe(engine, model=settings.name, ram=loaded.ram)
    serve_metrics(settings.metrics_port)

    async with (
        _stored_tier(settings, loaded, engine) as stored,
        running_server(
            settings.listen,
            partial(add_InferenceServiceServicer_to_server, _servicer(settings, loaded, engine, worker_id, stored)),
            health_service=health,
            stop_grace_seconds=settings.drain_seconds,
        ) as address,
        registered(
            settings.cache_address,
            lambda: _registration(settings, loaded, engine, worker_id, settings.advertise or address),
        ),
        watch(engine),
    ):
        await health.set_serving(True)
        _log.info("worker_ready", worker_id=worker_id, address=address)
        await wait_for_stop_signal()


@asynccontextmanager
async def _stored_tier(settings: WorkerSettings, loaded: Loaded, engine: Engine) -> AsyncIterator[StoredTier | None]:
    """Connects host memory with the block store. Recurrent models keep whole states, in memory only."""
    if loaded.ram is None or not settings.kv_store or not loaded.model.forks_at_any_token:
        yield None
        return
    keyring = load_keyring(settings.state_directory / KEY_FILE, os.environ.get(KEY_VARIABLE, ""))
    async with open_block_client(settings.cache_address, fingerprint=loaded.fingerprint, keyring=keyring) as archive:
        await archive.knows_key()  # the log says so at once where it doesn't
        stored = StoredTier(
            loaded.ram, archive, fingerprint=loaded.fingerprint,
            written_bytes_per_token=settings.written_bytes_per_token,
            is_computing=lambda: engine.load().running_count > 0,
        )  # fmt: skip
        metrics.observe_store(stored, model=settings.name)
        stored.warm(loaded.ram.budget_bytes // 2 if settings.warm_bytes is None else settings.warm_bytes)
        try:
            yield stored
        finally:
            await stored.close()


def _servicer(
    settings: WorkerSettings, loaded: Loaded, engine: Engine, worker_id: str, stored: StoredTier | None = None
) -> InferenceServicer:
    model = loaded.model
    template = template_of(settings.prompt_layout, model.chat_template or CHATML)
    preparer = Preparer(model, template, settings, context_length=loaded.size.context)
    description = pb.ModelDescription(
        name=settings.name,
        aliases=settings.aliases,
        context_length=loaded.size.context,
        capabilities=[pb.CAPABILITY_CHAT, pb.CAPABILITY_TOOLS],
        owner=model.metadata("general.organization") or "local",
        slot_count=settings.slots,
        loaded_at_seconds=int(time.time()),
        size_bytes=model.size_bytes,
        parameter_count=model.parameter_count,
    )
    return InferenceServicer(
        engine, model, preparer, description, worker_id=worker_id,
        speculation=SpeculationOptions(settings.speculation, settings.speculation_tokens),
        has_draft_model=loaded.draft_model is not None, stored=stored,
    )  # fmt: skip


def _limits(settings: WorkerSettings) -> EngineLimits:
    return EngineLimits(
        slots=settings.slots,
        queue_size=settings.queue_size,
        batch_tokens=settings.batch_tokens,
        step_budget_seconds=settings.step_budget_ms / 1000,
    )


def _registration(
    settings: WorkerSettings, loaded: Loaded, engine: Engine, worker_id: str, address: str
) -> cache_pb2.Worker:
    load_now = engine.load()
    return cache_pb2.Worker(
        worker_id=worker_id,
        address=address,
        models=[
            cache_pb2.WorkerModel(
                name=settings.name,
                aliases=settings.aliases,
                context_length=loaded.size.context,
                slot_count=settings.slots,
            )
        ],
        load=cache_pb2.WorkerLoad(
            running_count=load_now.running_count,
            waiting_count=load_now.waiting_count,
            used_cell_count=load_now.used_cells,
            cell_count=load_now.cell_count,
            prefill_tokens_per_second=load_now.prefill_tokens_per_second,
        ),
    )


if __name__ == "__main__":
    main()
