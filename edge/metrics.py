"""Prometheus metrics of the edge."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_WAIT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_GAP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class EdgeMetrics:
    """All metrics of one edge, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "localcode_edge_requests", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self.request_seconds = Histogram(
            "localcode_edge_request_seconds",
            "Time to the end of the response.",
            ("route",),
            buckets=_WAIT_BUCKETS,
            registry=self.registry,
        )
        self.time_to_first_token_seconds = Histogram(
            "localcode_edge_time_to_first_token_seconds",
            "Time from a request to the first piece of its answer.",
            ("model",),
            buckets=_WAIT_BUCKETS,
            registry=self.registry,
        )
        self.inter_token_seconds = Histogram(
            "localcode_edge_inter_token_seconds",
            "Time between two pieces of an answer.",
            ("model",),
            buckets=_GAP_BUCKETS,
            registry=self.registry,
        )
        self.open_streams = Gauge("localcode_edge_open_streams", "Streams being answered.", registry=self.registry)
        self.tokens = Counter("localcode_edge_tokens", "Tokens by kind.", ("model", "kind"), registry=self.registry)
        self.failed_answers = Counter(
            "localcode_edge_failed_answers", "Answers that broke off.", ("code",), registry=self.registry
        )
        self.disconnects = Counter(
            "localcode_edge_client_disconnects", "Clients that left before the end.", registry=self.registry
        )
