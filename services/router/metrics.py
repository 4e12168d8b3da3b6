"""Prometheus metrics of the router."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

_WAIT_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 20, 60)


class RouterMetrics:
    """What the router counts."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.requests = Counter(
            "localcode_router_requests", "Requests routed.", ("request_class", "model"), registry=registry
        )
        self.retries = Counter(
            "localcode_router_retries", "Requests sent to a worker again.", ("model",), registry=registry
        )
        self.migrations = Counter(
            "localcode_router_migrations", "Answers that another worker went on with.", ("model",), registry=registry
        )
        self.open_requests = Gauge(
            "localcode_router_open_requests", "Requests open at workers.", ("model",), registry=registry
        )
        self.worker_wait_seconds = Histogram(
            "localcode_router_worker_wait_seconds",
            "Time that requests waited for a worker to appear.",
            ("model",),
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
