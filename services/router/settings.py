"""Settings of the router: table `[router]` of `localcode.toml`, variables `LOCALCODE_ROUTER_*` over it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from localcode.inference.v1 import inference_pb2 as pb
from services.router.classify import ClassRule, ClassRules, class_of
from services.router.client_rules import CLIENT_RULES
from services.router.models import Defaults
from services.shared.settings import ServiceSettings

ClassName = Literal["main", "subagent", "title", "compaction", "fim", "embedding", "rerank", "vision", "chat"]


class ClassRuleSettings(BaseModel):
    """One rule: `{name, request_class, user_agent, system_prefix, ...}`; all conditions that are set must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    request_class: ClassName
    user_agent: str = ""
    system_prefix: str = ""
    system_contains: str = ""
    last_user_contains: str = ""
    max_message_count: int = Field(default=0, ge=0)
    has_tools: bool | None = None


class RouterSettings(ServiceSettings):
    """Where requests come from and go to."""

    model_config = SettingsConfigDict(env_prefix="LOCALCODE_ROUTER_")

    listen: str = "127.0.0.1:7001"
    """Where to serve gRPC, `host:port` or `unix:/path`."""
    cache_address: str = "127.0.0.1:7002"
    """The cache service, where workers register."""
    supervisor_address: str = ""
    """Where the supervisor answers that loads and unloads the models of this machine; empty means there is none."""
    load_wait_seconds: float = Field(default=600.0, ge=0, le=86_400)
    """How long a request waits for a model that is loaded for it, or for memory to load it into."""
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

    class_rules_first: tuple[ClassRuleSettings, ...] = ()
    """Rules of your own that name the class of a request; the first that matches counts, before the built-in ones."""

    @property
    def class_rules(self) -> ClassRules:
        """The rules that tell kinds of requests apart, in their order."""
        own = [
            ClassRule(**{**rule.model_dump(), "request_class": class_of(rule.request_class)})
            for rule in self.class_rules_first
        ]
        titles = [
            ClassRule("title", pb.REQUEST_CLASS_TITLE, system_prefix=text, has_tools=False)
            for text in self.title_prefixes
        ]
        compactions = [
            ClassRule("compaction", pb.REQUEST_CLASS_COMPACTION, system_prefix=text, has_tools=False)
            for text in self.compaction_prefixes
        ]
        return ClassRules((*own, *titles, *compactions, *CLIENT_RULES), self.fim_tokens)

    @property
    def defaults(self) -> Defaults:
        """The models of requests that name none."""
        return Defaults(self.default_model, {str(name): model for name, model in self.class_models.items()})
