"""Prometheus metrics of a worker, read from the engine when they are scraped."""

from collections.abc import Iterator

from prometheus_client import REGISTRY, Gauge
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from services.worker.engine import Engine
from services.worker.ram_tier import RamTier
from services.worker.speculation.request import SOURCES
from services.worker.stored_tier import StoredTier

_RUNNING = Gauge("localcode_worker_running_requests", "Requests that hold a slot.", ["model"])
_WAITING = Gauge("localcode_worker_waiting_requests", "Requests that wait for a slot.", ["model"])
_USED_CELLS = Gauge("localcode_worker_used_kv_cells", "KV cells in use, parked ones included.", ["model"])
_CELLS = Gauge("localcode_worker_kv_cells", "KV cells in all.", ["model"])
_PARKED_CELLS = Gauge("localcode_worker_parked_kv_cells", "KV cells that only parked sequences use.", ["model"])
_RAM_BYTES = Gauge("localcode_worker_ram_tier_bytes", "KV state in host memory.", ["model"])
_RAM_BUDGET = Gauge("localcode_worker_ram_tier_budget_bytes", "Most KV state that host memory may take.", ["model"])
_LONGEST_TURN_WAIT = Gauge(
    "localcode_worker_longest_turn_wait_seconds", "Longest that a step waited for another worker's.", ["model"]
)
_PREFILL_RATE = Gauge("localcode_worker_prefill_tokens_per_second", "Measured prefill rate.", ["model"])


class GuessCollector(Collector):
    """Counts guessed tokens by who guessed them."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine, self._model = engine, model

    def collect(self) -> Iterator[Metric]:
        """Reads the engine."""
        guesses = self._engine.guesses
        for name, help_text, counts in (
            ("drafted", "Tokens that were guessed ahead.", guesses.drafted),
            ("accepted", "Guessed tokens that the model confirmed.", guesses.accepted),
        ):
            family = CounterMetricFamily(f"localcode_worker_{name}_tokens", help_text, labels=["model", "kind"])
            for source in SOURCES:
                family.add_metric([self._model, source], counts[source])
            yield family


class TurnCollector(Collector):
    """Counts how long steps waited for those of other workers that share the processor."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine, self._model = engine, model

    def collect(self) -> Iterator[Metric]:
        """Reads the engine."""
        help_text = "Time that steps waited for another worker of this machine to end its own."
        family = CounterMetricFamily("localcode_worker_turn_wait_seconds", help_text, labels=["model"])
        family.add_metric([self._model], self._engine.turn_waits.seconds)
        yield family


class StoreCollector(Collector):
    """Counts what a worker writes to the block store, beside the tokens that it computes, and reads ahead."""

    def __init__(self, stored: StoredTier, model: str) -> None:
        self._stored, self._model = stored, model

    def collect(self) -> Iterator[Metric]:
        """Reads the tier."""
        wear = self._stored.writer.wear
        for name, help_text, count in (
            ("kv_written_bytes", "Bytes of KV state written to the store.", wear.written_bytes),
            ("computed_tokens", "Tokens whose KV state was computed.", wear.computed_count),
            ("kv_prefetched_tokens", "Tokens whose KV state was brought into host memory ahead.",
             self._stored.prefetcher.token_count),
        ):  # fmt: skip
            family = CounterMetricFamily(f"localcode_worker_{name}", help_text, labels=["model"])
            family.add_metric([self._model], count)
            yield family


def observe_store(stored: StoredTier, *, model: str) -> None:
    """Reports the tier below host memory from now on."""
    REGISTRY.register(StoreCollector(stored, model))


def observe(engine: Engine, *, model: str, ram: RamTier | None) -> None:
    """Reports an engine from now on."""
    _RUNNING.labels(model).set_function(lambda: engine.load().running_count)
    _WAITING.labels(model).set_function(lambda: engine.load().waiting_count)
    _USED_CELLS.labels(model).set_function(lambda: engine.load().used_cells)
    _CELLS.labels(model).set_function(lambda: engine.load().cell_count)
    _PARKED_CELLS.labels(model).set_function(lambda: engine.load().parked_cells)
    _RAM_BYTES.labels(model).set_function(lambda: ram.used_bytes if ram else 0)
    _RAM_BUDGET.labels(model).set_function(lambda: ram.budget_bytes if ram else 0)
    _PREFILL_RATE.labels(model).set_function(lambda: engine.load().prefill_tokens_per_second)
    _LONGEST_TURN_WAIT.labels(model).set_function(lambda: engine.turn_waits.longest_seconds)
    REGISTRY.register(GuessCollector(engine, model))
    REGISTRY.register(TurnCollector(engine, model))
