"""Settings of the edge."""

from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.shared.settings import ServiceSettings

_Names = Annotated[tuple[str, ...], NoDecode]


class EdgeSettings(ServiceSettings):
    """Table `[edge]`, variables `LOCALCODE_EDGE_*`; lists in variables are separated by commas."""

    model_config = SettingsConfigDict(env_prefix="LOCALCODE_EDGE_")

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=4242, ge=0, le=65535)
    """Port to listen on; 0 picks a free one."""
    router_address: str = "127.0.0.1:7001"
    """Where the router listens, or a single worker; several routers, separated by commas, stand in for each other."""
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Keys that clients may use; without any, every key is accepted."""
    cors_origins: _Names = ()
    """Web origins whose scripts may call this server; none by default."""
    max_body_bytes: PositiveInt = 8 * 1024 * 1024
    """Largest request body."""
    first_headers_seconds: PositiveFloat = 10.0
    """How long a refusal may still keep its HTTP status; then a stream starts with comments."""
    keep_alive_seconds: PositiveFloat = 5.0
    """Silence after which an open stream gets a comment."""
    generate_timeout_seconds: PositiveFloat = 6 * 3600.0
    """Longest time one answer may take."""
    status_timeout_seconds: PositiveFloat = 2.0
    """Longest time to wait for the state of other services."""
    graceful_shutdown_seconds: int = Field(default=5, ge=0)
    """How long open streams may go on after a stop signal."""

    @property
    def router_addresses(self) -> tuple[str, ...]:
        """Where the routers listen."""
        return tuple(part.strip() for part in self.router_address.split(",") if part.strip())

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value
