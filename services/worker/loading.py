"""Loads a model and sizes its KV cache to the machine."""

import json
import os
from dataclasses import dataclass
from functools import partial
from typing import Final

import psutil
import structlog

from services.worker.compute_lock import ComputeLock, FileComputeLock, NoComputeLock
from services.worker.fingerprint import fingerprint, model_digest
from services.worker.kv_pool import KvPool
from services.worker.llama import LlamaContext, LlamaModel, LoadFailed, device_names, initialise, llama_version
from services.worker.parked_budget import CPU_SHARE, GPU_SHARE, measure_parked_budget
from services.worker.passing_thread import in_passing_thread
from services.worker.ram_tier import RamTier
from services.worker.settings import WorkerSettings
from services.worker.speculation import MOST_PER_STEP
from services.worker.speculation.draft_model import DraftModel
from services.worker.speculation.loading import load_draft_model

_SHARE_OF_FREE_MEMORY: Final = 0.4
_GIB: Final = 1024**3
_MOST_RAM_BYTES: Final = 8 * 10**9
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class KvSize:
    """How many tokens one request, all requests, and finished conversations may keep in cells."""

    context: int
    cells: int
    parked_cells: int


@dataclass(frozen=True)
class Loaded:
    """A model ready to compute."""

    model: LlamaModel
    context: LlamaContext
    pool: KvPool
    lock: ComputeLock
    size: KvSize
    threads: int
    ram: RamTier | None
    """Host memory below the cells, if there is any."""
    fingerprint: bytes
    draft_model: DraftModel | None = None


def load(settings: WorkerSettings) -> Loaded:
    """Loads the model that the settings name, or raises `LoadFailed` with the remedy."""
    if settings.model_path is None or not settings.model_path.is_file():
        raise LoadFailed(f"Model file {settings.model_path} is missing; `localcode models pull` fetches it.")
    initialise(settings.numa)
    make_model = partial(
        LlamaModel, settings.model_path, gpu_layers=settings.gpu_layers, mmap=settings.mmap, mlock=settings.mlock,
        overrides=settings.metadata_overrides,
    )  # fmt: skip
    model = in_passing_thread(make_model)  # with AMX, llama.cpp rearranges weights with OpenMP
    size = kv_size(
        settings,
        trained_context=model.trained_context,
        bytes_per_cell=model.kv_bytes_per_cell(settings.cache_type_k, settings.cache_type_v),
        free_bytes=psutil.virtual_memory().available,
    )
    if settings.context is None and size.context == settings.kv_cells:
        _log.info("context_limited_to_pool", context=size.context, trained_context=model.trained_context)
    threads = settings.threads or psutil.cpu_count(logical=False) or 1
    # A recurrent model keeps a full state for every sequence id, so there nothing is parked.
    sequences = settings.slots + (settings.parked_sequences if model.forks_at_any_token else 0)
    context = LlamaContext(
        model, cells=size.cells, sequences=sequences, batch_tokens=settings.batch_tokens, threads=threads,
        type_k=settings.cache_type_k, type_v=settings.cache_type_v, draft_tokens=MOST_PER_STEP,
    )  # fmt: skip
    lock = _compute_lock(settings)
    with lock.held():
        ram, name = _ram_tier(settings), _fingerprint(settings)
        pool = _pool(settings, model, context, size, sequences, ram, name)
    return Loaded(
        model, context, pool, lock, size, threads, ram, name,
        draft_model=load_draft_model(settings, model, lock, cells=size.cells, threads=threads),
    )  # fmt: skip


def ram_bytes(settings: WorkerSettings, *, free_bytes: int) -> int:
    """Sizes the tier in host memory: as configured, else a quarter of what is free, at most 8 GB."""
    if settings.ram_bytes is not None:
        return settings.ram_bytes
    return min(_MOST_RAM_BYTES, free_bytes // 4)


def _ram_tier(settings: WorkerSettings) -> RamTier | None:
    budget = ram_bytes(settings, free_bytes=psutil.virtual_memory().available)
    return RamTier(budget) if budget else None


def _pool(
    settings: WorkerSettings, model: LlamaModel, context: LlamaContext, size: KvSize, sequences: int,
    ram: RamTier | None, name: bytes,
) -> KvPool:  # fmt: skip
    parked_cells = size.parked_cells
    if ram is not None and model.forks_at_any_token and settings.parked_cells is None:
        share = GPU_SHARE if computes_on_gpu(settings) else CPU_SHARE
        parked_cells = in_passing_thread(partial(measure_parked_budget, context, at_most=parked_cells, share=share))
    _log.info("kv_tiers_sized", parked_cells=parked_cells, ram_bytes=0 if ram is None else ram.budget_bytes)
    return KvPool(
        context.kv, cells=size.cells, sequences=sequences, parked_sequences=settings.parked_sequences,
        parked_cells=parked_cells, forks=model.forks_at_any_token,
        store=ram, fingerprint=name,
    )  # fmt: skip


def _fingerprint(settings: WorkerSettings) -> bytes:
    """Names the KV values that this configuration makes. Threads and batch sizes only round: they are left out."""
    assert settings.model_path is not None
    return fingerprint(
        {
            "model": model_digest(settings.model_path, settings.digests_path),
            "overrides": json.dumps(settings.metadata_overrides, sort_keys=True),
            "llama_cpp": llama_version(),
            "type_k": settings.cache_type_k,
            "type_v": settings.cache_type_v,
            # A quantized cache is rotated unless this is set, and state of the one form is garbage to the other.
            "no_rotation": os.environ.get("LLAMA_ATTN_ROT_DISABLE", ""),
            "flash_attention": True,
            "full_window": True,
            "salt": settings.kv_salt,
        }
    )


def kv_size(settings: WorkerSettings, *, trained_context: int, bytes_per_cell: int, free_bytes: int) -> KvSize:
    """Sizes context and pool: as configured, else as trained, as far as memory and a configured pool allow."""
    fitting = max(1, int(free_bytes * _SHARE_OF_FREE_MEMORY / max(1, bytes_per_cell)))
    context = settings.context or min(trained_context, fitting, settings.kv_cells or trained_context)
    cells = settings.kv_cells or min(2 * context, max(context, fitting))
    if context > cells:
        raise LoadFailed(f"context = {context} is larger than kv_cells = {cells}; set kv_cells to at least {context}.")
    if cells * bytes_per_cell > free_bytes:
        most = int(free_bytes * 0.9 / bytes_per_cell)
        raise LoadFailed(
            f"{cells} KV cells take {cells * bytes_per_cell / _GIB:.1f} GiB, but {free_bytes / _GIB:.1f} GiB are free; "
            f"set context (and kv_cells) to at most {most}, or cache_type_k and cache_type_v to q8_0."
        )
    return KvSize(context, cells, min(settings.parked_cells or context, cells))


def computes_on_gpu(settings: WorkerSettings) -> bool:
    """Whether the processor is left to other work while a step is computed."""
    return bool(device_names()) and settings.gpu_layers != 0


def _compute_lock(settings: WorkerSettings) -> ComputeLock:
    """Workers whose layers are on a GPU don't compete for the processor's cores."""
    if settings.compute_lock is None or computes_on_gpu(settings):
        return NoComputeLock()
    return FileComputeLock(settings.compute_lock)
