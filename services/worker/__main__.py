"""Runs a worker: `LOCALCODE_WORKER_NAME=coder python -m services.worker`."""

import asyncio
import os
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog
import uvloop
from grpc.aio import Server

from localcode.cache.v1 import cache_pb2
from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from localcode.inference.v1.state_pb2_grpc import add_StateServiceServicer_to_server
from services.shared.block_client import open_block_client
from services.shared.grpc_runtime import HealthService, running_server, wait_for_stop_signal
from services.shared.keyring import KEY_FILE, KEY_VARIABLE, load_keyring
from services.shared.registration import registered
from services.shared.settings import ConfigurationError, LogSettings, load_document, load_settings
from services.shared.telemetry import configure_logging, serve_metrics, shows_content
from services.worker import metrics
from services.worker.chat_template import CHATML
from services.worker.engine import Engine, EngineLimits
from services.worker.explain import Explainer, ModelText
from services.worker.kv_pool import KvPool
from services.worker.llama import LoadFailed, device_names
from services.worker.loading import Loaded, computes_on_gpu, load
from services.worker.outbox import StreamInterval
from services.worker.prompt_layout import template_of
from services.worker.prompts import Preparer
from services.worker.saved_slots import SavedSlots
from services.worker.servicer import InferenceServicer, Mailbox
from services.worker.settings import WorkerSettings
from services.worker.speculation import SpeculationOptions
from services.worker.state_servicer import StateServicer
from services.worker.stored_states import StoredStates
from services.worker.stored_tier import StoredTier
from services.worker.template_sandbox import takes_tools
from services.worker.watchdog import watch

_SAVE_SECONDS: Final = 5.0
_CPU_STREAM_INTERVAL: Final = StreamInterval(0.1, longest_seconds=0.25)
_GPU_STREAM_INTERVAL: Final = StreamInterval(0.02, longest_seconds=0.1)
_log = structlog.get_logger(__name__)


def main() -> None:
    """Reads the settings and serves until told to stop."""
    try:
        document = load_document()
        name = os.environ.get("LOCALCODE_WORKER_NAME", "")
        settings = load_settings(WorkerSettings, "models", name, document=document)
        log_settings = load_settings(LogSettings, "log", document=document)
        configure_logging(log_settings, process=f"worker-{settings.name}")
        uvloop.run(_serve(settings, shows_content=shows_content(log_settings)))
    except (ConfigurationError, LoadFailed) as error:
        sys.exit(str(error))


async def _serve(settings: WorkerSettings, *, shows_content: bool) -> None:
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
        await _serve_engine(settings, loaded, engine, shows_content=shows_content)
    finally:
        engine.stop()


async def _serve_engine(settings: WorkerSettings, loaded: Loaded, engine: Engine, *, shows_content: bool) -> None:
    worker_id = f"{settings.name}-{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    explainer = _explainer(settings, loaded, worker_id, shows_content=shows_content)
    health = HealthService()
    metrics.observe(engine, model=settings.name, ram=loaded.ram)
    serve_metrics(settings.metrics_port)

    async with (
        _stored_tier(settings, loaded, engine) as (stored, saved),
        running_server(
            settings.listen,
            _services(settings, loaded, engine, explainer, stored, saved),
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
async def _stored_tier(
    settings: WorkerSettings, loaded: Loaded, engine: Engine
) -> AsyncIterator[tuple[StoredTier | None, SavedSlots | None]]:
    """Connects host memory with the block store; slots are saved of models whose memory can be cut into blocks."""
    if loaded.ram is None or not settings.kv_store:
        yield None, None
        return
    keyring = load_keyring(settings.state_directory / KEY_FILE, os.environ.get(KEY_VARIABLE, ""))
    async with open_block_client(settings.cache_address, fingerprint=loaded.fingerprint, keyring=keyring) as archive:
        await archive.knows_key()  # the log says so at once where it doesn't
        can_be_cut = loaded.model.forks_at_any_token
        stored = (StoredTier if can_be_cut else StoredStates)(
            loaded.ram, archive, fingerprint=loaded.fingerprint,
            written_bytes_per_token=settings.written_bytes_per_token,
            is_computing=lambda: engine.load().running_count > 0, shares_processor=not computes_on_gpu(settings),
        )  # fmt: skip
        metrics.observe_store(stored, model=settings.name)
        stored.warm(loaded.ram.budget_bytes // 2 if settings.warm_bytes is None else settings.warm_bytes)
        saved = SavedSlots(engine, loaded.pool, loaded.ram, archive, fingerprint=loaded.fingerprint)
        try:
            yield stored, saved if can_be_cut else None
        finally:
            await _until_saved(engine, loaded.pool)
            await stored.close()


async def _until_saved(engine: Engine, pool: KvPool) -> None:
    """Waits, a few seconds at most, until finished conversations are in host memory, from which they are stored."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_SAVE_SECONDS):
            while await asyncio.wrap_future(engine.call(lambda: pool.is_untidy)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


def _explainer(settings: WorkerSettings, loaded: Loaded, worker_id: str, *, shows_content: bool) -> Explainer:
    model = loaded.model
    text = ModelText(
        settings.name, settings.prompt_layout, lambda token: model.piece(token) or model.token_text(token).encode()
    )
    return Explainer(text, worker_id, shows_content)


def _services(
    settings: WorkerSettings, loaded: Loaded, engine: Engine, explainer: Explainer, stored: StoredTier | None = None,
    saved: SavedSlots | None = None,
) -> Callable[[Server], None]:  # fmt: skip
    """Registers all that a worker serves."""
    inference = _servicer(settings, loaded, engine, explainer, stored)
    state = StateServicer(
        engine, explainer, saved, names=(settings.name, *settings.aliases), context_length=loaded.size.context
    )

    def register(server: Server) -> None:
        add_InferenceServiceServicer_to_server(inference, server)
        add_StateServiceServicer_to_server(state, server)

    return register


def _servicer(
    settings: WorkerSettings, loaded: Loaded, engine: Engine, explainer: Explainer, stored: StoredTier | None = None
) -> InferenceServicer:
    model, template = loaded.model, _template(settings, loaded)
    preparer = Preparer(model, template, settings, context_length=loaded.size.context)
    description = pb.ModelDescription(
        name=settings.name,
        aliases=settings.aliases,
        context_length=loaded.size.context,
        capabilities=[pb.CAPABILITY_CHAT, *([pb.CAPABILITY_TOOLS] if takes_tools(template) else [])],
        owner=model.metadata("general.organization") or "local",
        slot_count=settings.slots,
        loaded_at_seconds=int(time.time()),
        size_bytes=model.size_bytes,
        parameter_count=model.parameter_count,
    )
    return InferenceServicer(
        engine, model, preparer, description, explainer=explainer,
        speculation=SpeculationOptions(settings.speculation, settings.speculation_tokens),
        has_draft_model=loaded.draft_model is not None, stored=stored, has_tool_gate=settings.tool_gate,
    )  # fmt: skip


def _template(settings: WorkerSettings, loaded: Loaded) -> str:
    return template_of(settings.prompt_layout, loaded.model.chat_template or CHATML)


def _limits(settings: WorkerSettings) -> EngineLimits:
    return EngineLimits(
        slots=settings.slots,
        queue_size=settings.queue_size,
        batch_tokens=settings.batch_tokens,
        step_budget_seconds=settings.step_budget_ms / 1000,
        stream_interval=_stream_interval(settings),
    )


def _stream_interval(settings: WorkerSettings) -> StreamInterval:
    if settings.stream_interval_ms is not None:
        return StreamInterval(settings.stream_interval_ms / 1000)
    return _GPU_STREAM_INTERVAL if computes_on_gpu(settings) else _CPU_STREAM_INTERVAL


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
                ignores_tools=not takes_tools(_template(settings, loaded)),
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
