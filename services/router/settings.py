"""Settings of the router: table `[router]` of `localcode.toml`, variables `LOCALCODE_ROUTER_*` over it."""

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.router.classify import ClassRules
from services.router.models import Defaults
from services.shared.settings import ServiceSettings

ClassName = Literal["main", "subagent", "title", "compaction", "fim", "embedding", "rerank", "vision", "chat"]


class RouterSettings(ServiceSettings):
    """Where requests come from and go to."""

    model_config = SettingsConfigDict(env_prefix="LOCALCODE_ROUTER_")

    listen: str = "127.0.0.1:7001"
    """Where to serve gRPC, `host:port` or `unix:/path`."""
    cache_address: str = "127.0.0.1:7002"
    """The cache service, where workers register."""
    default_model: str = ""
    """The model of requests that name none or `auto`; empty means the first one configured or registered."""
    class_models: dict[ClassName, str] = Field(default_factory=dict)
    """Models of such requests by their class, such as `{title = "small"}`; used while a worker runs them."""
    worker_wait_seconds: float = Field(default=20.0, ge=0, le=600)
    """How long a request waits for a worker of a known model to appear."""
    queue_size: int = Field(default=64, ge=0, le=10_000)
    """Requests of one model that may wait for a slot; more are refused."""
    resume_wait_seconds: float = Field(default=60.0, ge=0, le=600)
    """How long an answer that lost its worker waits for another one that goes on with it."""
    rejoin_seconds: float = Field(default=5.0, ge=0, le=300)
    """How long an answer goes on whose client was cut off, for the client to come back to. It ends at once where
    another request needs its slot, or its session asks for something else."""
    drain_seconds: float = Field(default=5.0, ge=0, le=3600)
    """How long streams may go on after a stop signal; then they break, and the edge goes on with them elsewhere."""
    title_prefixes: tuple[str, ...] = ("You are a title generator.",)
    """How the system prompt of a request for a session's title begins."""
    compaction_prefixes: tuple[str, ...] = ("You are a context summarization agent.",)
    """How the system prompt of a request for a session's summary begins."""
    fim_tokens: tuple[str, ...] = (
        "<|fim_prefix|>",
        "<fim_prefix>",
        "<|fim_begin|>",
        "<｜fim▁begin｜>",  # noqa: RUF001  DeepSeek's own spelling
        "<|code_prefix|>",
        "[SUFFIX]",
    )
    """Special tokens that make a raw prompt a completion at a cursor."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Loopback port of the Prometheus metrics; 0 serves none."""

    @property
    def class_rules(self) -> ClassRules:
        """The texts that tell kinds of requests apart."""
        return ClassRules(self.title_prefixes, self.compaction_prefixes, self.fim_tokens)

    @property
    def defaults(self) -> Defaults:
        """The models of requests that name none."""
        return Defaults(self.default_model, {str(name): model for name, model in self.class_models.items()})
