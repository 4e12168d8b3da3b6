"""Settings of the cache service: table `[cache]` of `localcode.toml`, variables `LOCALCODE_CACHE_*` over it."""

from typing import Final

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.shared.settings import ServiceSettings

_SCHEMES: Final = ("redis://", "rediss://", "unix://")


class CacheSettings(ServiceSettings):
    """Where the index is kept, and how much of it."""

    model_config = SettingsConfigDict(env_prefix="LOCALCODE_CACHE_")

    listen: str = "127.0.0.1:7002"
    """Where to serve gRPC, `host:port` or `unix:/path`."""
    redis_url: SecretStr | None = None
    """`redis://`, `rediss://` (TLS) or `unix:///path` of a Redis or Valkey; unset keeps the index in memory."""
    redis_timeout_seconds: PositiveFloat = 0.5
    """How long connecting to Redis, or one answer of it, may take."""
    max_lineages: PositiveInt = 100_000
    """Most lineage hashes kept; those not seen for longest go first."""
    lineage_ttl_seconds: float = Field(default=7 * 24 * 3600.0, gt=0)
    """How long a lineage hash that is not seen again is kept."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Loopback port of the Prometheus metrics; 0 serves none."""

    @field_validator("redis_url")
    @classmethod
    def _has_known_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None or not url.get_secret_value():
            return None
        if not url.get_secret_value().startswith(_SCHEMES):
            raise ValueError(f"must start with one of {', '.join(_SCHEMES)}")
        return url
