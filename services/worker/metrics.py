"""Prometheus metrics of a worker, read from the engine when they are scraped."""

from prometheus_client import Gauge

from services.worker.engine import Engine

_RUNNING = Gauge("localcode_worker_running_requests", "Requests that hold a slot.", ["model"])
_WAITING = Gauge("localcode_worker_waiting_requests", "Requests that wait for a slot.", ["model"])
_USED_CELLS = Gauge("localcode_worker_used_kv_cells", "KV cells in use, parked ones included.", ["model"])
_CELLS = Gauge("localcode_worker_kv_cells", "KV cells in all.", ["model"])
_PREFILL_RATE = Gauge("localcode_worker_prefill_tokens_per_second", "Measured prefill rate.", ["model"])


def observe(engine: Engine, *, model: str) -> None:
    """Reports an engine from now on."""
    _RUNNING.labels(model).set_function(lambda: engine.load().running_count)
    _WAITING.labels(model).set_function(lambda: engine.load().waiting_count)
    _USED_CELLS.labels(model).set_function(lambda: engine.load().used_cells)
    _CELLS.labels(model).set_function(lambda: engine.load().cell_count)
    _PREFILL_RATE.labels(model).set_function(lambda: engine.load().prefill_tokens_per_second)
