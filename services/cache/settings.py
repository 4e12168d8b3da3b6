"""Settings of the cache service: table `[cache]` of `localcode.toml`, variables `LOCALCODE_CACHE_*` over it."""

from pathlib import Path
from typing import Final

import platformdirs
from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.shared.keyring import KEY_FILE
from services.shared.settings import ServiceSettings

_SCHEMES: Final = ("redis://", "rediss://", "unix://")


class CacheSettings(ServiceSettings):
    """Where index and blocks are kept, and how much of them."""

    model_config = SettingsConfigDict(env_prefix="LOCALCODE_CACHE_")

    listen: str = "127.0.0.1:7002"
    """Where to serve gRPC, `host:port` or `unix:/path`."""
    redis_url: SecretStr | None = None
    """`redis://`, `rediss://` (TLS) or `unix:///path` of a Redis or Valkey; unset keeps the index in memory."""
    redis_cluster: bool = False
    """Whether `redis_url` names a node of a Redis Cluster."""
    redis_timeout_seconds: PositiveFloat = 0.5
    """How long connecting to Redis, or one answer of it, may take."""
    max_lineages: PositiveInt = 100_000
    """Most lineage hashes kept; those not seen for longest go first."""
    lineage_ttl_seconds: float = Field(default=7 * 24 * 3600.0, gt=0)
    """How long a lineage hash that is not seen again is kept."""
    state_directory: Path = platformdirs.user_state_path("localcode")
    """Where the key of the KV store is kept, and in `kv` its blocks, unless `blob_url` says otherwise."""
    blob_url: str = ""
    """Where KV blocks are kept: a directory, or `s3://bucket/prefix`, `gs://…`, `az://…`."""
    max_bytes: PositiveInt | None = None
    """Most bytes of KV blocks; unset means the smaller of 20 GB and a tenth of the disk."""
    min_free_bytes: int = Field(default=5_000_000_000, ge=0)
    """Bytes of the blocks' disk that stay free."""
    max_block_bytes: PositiveInt = 512 * 1024 * 1024
    """Most bytes of one KV block."""
    max_idle_days: PositiveFloat = 30.0
    """How long a KV block is kept that is of no use."""
    reconcile_seconds: PositiveFloat = 3600.0
    """How often blobs and index are compared."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Loopback port of the Prometheus metrics; 0 serves none."""

    @property
    def key_path(self) -> Path:
        """The file of the KV store's keys."""
        return self.state_directory / KEY_FILE

    @property
    def storage(self) -> str:
        """Where KV blocks are kept."""
        return self.blob_url or str(self.state_directory / "kv")

    @field_validator("redis_url")
    @classmethod
    def _has_known_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None or not url.get_secret_value():
            return None
        if not url.get_secret_value().startswith(_SCHEMES):
            raise ValueError(f"must start with one of {', '.join(_SCHEMES)}")
        return url
