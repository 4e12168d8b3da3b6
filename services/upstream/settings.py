"""Settings of one upstream: table `[models.<name>]` of `localcode.toml`, variables `LOCALCODE_UPSTREAM_*` over it."""

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field, HttpUrl, PositiveFloat, PositiveInt, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.shared.settings import ConfigurationError, ServiceSettings

GLM_BASE_URL: Final = "https://api.z.ai/api/coding/paas/v4"
GLM_API_KEY_VARIABLE: Final = "LOCALCODE_GLM_API_KEY"
PLACEHOLDER_KEY: Final = "dummy"


class UpstreamSettings(ServiceSettings):
    """Where a remote model is, and how to ask it. The defaults reach GLM."""

    model_config = SettingsConfigDict(env_prefix="LOCALCODE_UPSTREAM_", protected_namespaces=())

    kind: Literal["upstream"] = "upstream"
    """Which service runs this model."""
    name: str = Field(min_length=1, max_length=200)
    """The name to ask for."""
    aliases: tuple[str, ...] = ()
    """Other names of the model."""
    listen: str = "127.0.0.1:0"
    """Where to serve gRPC, `host:port` or `unix:/path`; port 0 takes a free one."""
    advertise: str = ""
    """The address that others reach this process at; empty means the one that was bound."""
    cache_address: str = "127.0.0.1:7002"
    """The cache service, where this process registers."""

    base_url: HttpUrl = HttpUrl(GLM_BASE_URL)
    """The remote API up to, but without, `/chat/completions`."""
    model: str = ""
    """The model's name at the remote; empty means `name`."""
    api_key_variable: str = ""
    """The environment variable that holds the key; empty means GLM's own at GLM's URL, and no key elsewhere."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Further HTTP headers of each request."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request's body, where the request does not set them."""

    context_length: PositiveInt = 131_072
    """Most tokens of prompt and answer together, as the remote documents it."""
    max_output_tokens: PositiveInt | None = None
    """Most tokens the remote generates for one request; greater wishes are lowered to it."""
    vision: bool = False
    """Whether the model sees images; if not, they are refused."""

    max_concurrent: int = Field(default=4, ge=1, le=1024)
    """Requests that the remote works on at once."""
    queue_size: int = Field(default=64, ge=0)
    """Requests that may wait for a place; more are refused."""
    connect_timeout_seconds: PositiveFloat = 10.0
    """How long connecting may take."""
    first_byte_timeout_seconds: PositiveFloat = 300.0
    """How long the remote may think before its answer begins."""
    idle_timeout_seconds: PositiveFloat = 120.0
    """How long the remote may pause within an answer."""
    retries: int = Field(default=2, ge=0, le=10)
    """How often a request is sent again that the remote failed to answer at all."""

    @field_validator("base_url")
    @classmethod
    def _holds_no_password(cls, url: HttpUrl) -> HttpUrl:
        if url.username or url.password:
            raise ValueError("must hold no user or password; put the key into the variable that api_key_variable names")
        return url

    @property
    def remote_model(self) -> str:
        """The model's name at the remote."""
        return self.model or self.name

    @property
    def host(self) -> str:
        """The remote's host."""
        return self.base_url.host or ""

    @property
    def key_variable(self) -> str:
        """The environment variable that holds the key, or empty. GLM's key is never sent to another host unasked."""
        is_glm = self.host == HttpUrl(GLM_BASE_URL).host
        return self.api_key_variable or (GLM_API_KEY_VARIABLE if is_glm else "")


def api_key(settings: UpstreamSettings, environment: Mapping[str, str]) -> SecretStr:
    """Reads the key that the remote wants; without one, a placeholder, which keyless servers accept."""
    key = environment.get(settings.key_variable, "").strip() or PLACEHOLDER_KEY
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(f"{settings.key_variable} must hold printable ASCII characters only.")
    return SecretStr(key)
