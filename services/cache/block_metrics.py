"""What the index of KV blocks counts, as Prometheus metrics; every cache service on one Redis shows the same."""

from dataclasses import fields

from prometheus_client import Gauge

from services.cache.block_index import BlockCounts

_MEANINGS = {
    "block_count": "Stored KV blocks.",
    "size_bytes": "Bytes of stored KV blocks.",
    "token_count": "Tokens whose KV state is stored.",
    "pinned_count": "Pinned KV blocks.",
    "hit_count": "KV blocks that lookups asked for and found.",
    "miss_count": "KV blocks that lookups asked for and did not find.",
    "written_bytes": "Bytes of KV blocks written.",
    "written_token_count": "Tokens whose KV state was written.",
    "eviction_count": "KV blocks evicted.",
    "evicted_bytes": "Bytes of KV blocks evicted.",
    "reconciled_count": "Comparisons of blobs and index.",
    "computed_token_count": "Tokens that workers have computed; bytes written are to be seen against them.",
}


class BlockMetrics:
    """Gauges `localcode_cache_kv_*`, one a count."""

    def __init__(self) -> None:
        names = [field.name for field in fields(BlockCounts)]
        self._gauges = {name: Gauge(f"localcode_cache_kv_{name}", _MEANINGS[name]) for name in names}

    def show(self, counts: BlockCounts) -> None:
        """Sets all gauges."""
        for name, gauge in self._gauges.items():
            gauge.set(getattr(counts, name))
