"""Settings of one worker: the table `[models.<name>]` of `localcode.toml`, variables `LOCALCODE_WORKER_*` over it."""

from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field, PositiveInt
from pydantic_settings import SettingsConfigDict

from services.shared.settings import ServiceSettings
from services.worker.prompt_layout import PromptLayout

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]

NumaStrategy = Literal["none", "distribute", "isolate", "numactl"]

MetadataValue = bool | int | float | str


class WorkerSettings(ServiceSettings):
    """How one model is served."""

    model_config = SettingsConfigDict(env_prefix="LOCALCODE_WORKER_", protected_namespaces=())

    kind: Literal["llama"] = "llama"
    """Which service runs this model."""
    name: str = Field(default="", max_length=200)
    """The name to ask for."""
    source: str = ""
    """Where the model comes from: a name of the catalogue, a path, or `hf:REPO/FILE`. Resolved by the command line."""
    model_path: Path | None = None
    """The GGUF file (the first shard of a split one)."""
    pinned: bool = False
    """Whether the model stays loaded where others are unloaded; `localcode up` sees to that."""
    aliases: tuple[str, ...] = ()
    """Other names of the model."""
    listen: str = "127.0.0.1:0"
    """Where to serve gRPC, `host:port` or `unix:/path`; port 0 takes a free one."""
    advertise: str = ""
    """The address that others reach this worker at; empty means the one that was bound."""
    cache_address: str = "127.0.0.1:7002"
    """The cache service, where the worker registers."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of Prometheus metrics on loopback; 0 serves none."""

    context: PositiveInt | None = None
    """Most tokens of one request, prompt and answer; unset means as trained, or what fits memory and
    `kv_cells`."""
    slots: int = Field(default=4, ge=1, le=64)
    """Requests that are worked on at once."""
    kv_cells: PositiveInt | None = None
    """Tokens whose KV state fits the pool that all requests share; unset means twice the context, if memory allows."""
    parked_sequences: int = Field(default=16, ge=0, le=128)
    """Finished conversations that keep their KV state."""
    parked_cells: PositiveInt | None = None
    """KV cells that finished conversations may keep; unset means as many as slow a decode step by at most 1 %, on a GPU
    by at most 25 %."""
    ram_bytes: int | None = Field(default=None, ge=0)
    """Host memory for KV state that left the cells; unset means a quarter of what is free, at most 8 GB; 0 is none."""
    kv_store: bool = True
    """Whether KV state is kept in the cache service's store too, where it outlives this process."""
    state_directory: Path = platformdirs.user_state_path("localcode")
    """Where the key is kept that seals stored state."""
    warm_bytes: int | None = Field(default=None, ge=0)
    """Bytes of stored KV state, the most valuable, that are brought into host memory at the start; unset means half of
    that memory; 0 is none."""
    written_bytes_per_token: PositiveInt | None = None
    """Most bytes of KV state written to the store for each token that is computed; unset means all that is worth it."""
    kv_salt: str = ""
    """Separates stored KV state from that of others who share the store."""
    digests_path: Path = Field(default_factory=lambda: platformdirs.user_cache_path("localcode") / "digests.json")
    """A file that remembers the digests of model files."""
    queue_size: int = Field(default=64, ge=0)
    """Requests that may wait for a slot; more are refused."""
    drain_seconds: float = Field(default=5.0, ge=0, le=3600)
    """How long answers may go on after a stop signal; then another worker of the model goes on with them."""
    batch_tokens: int = Field(default=512, ge=32, le=8192)
    """Most tokens of one step."""
    step_budget_ms: int = Field(default=250, ge=10)
    """How long a step may take while somebody's answer is being decoded."""
    stream_interval_ms: int | None = Field(default=None, ge=0, le=1000)
    """What a stream says within this time of its last message waits and is sent together; 0 sends each token alone.
    Unset means 100 where the processor computes the model, which each message takes time from, and 20 on a GPU; among
    many streams, each of which is slower, up to 250 and 100."""

    threads: PositiveInt | None = None
    """Threads of a step; unset means the physical cores."""
    gpu_layers: int = Field(default=-1, ge=-1)
    """Layers to keep on the GPU; -1 means all that the device takes."""
    cache_type_k: CacheType = "f16"
    """Data type of cached keys."""
    cache_type_v: CacheType = "f16"
    """Data type of cached values."""
    metadata_overrides: dict[str, MetadataValue] = Field(default_factory=dict)
    """Values that replace those of the file's metadata."""
    mmap: bool = True
    """Whether to map the model file instead of reading it."""
    mlock: bool = False
    """Whether to keep the model from being swapped out."""
    numa: NumaStrategy = "none"
    """How threads are placed on a machine of several memory nodes: spread over all of them (`distribute`), kept on the
    one where the worker started (`isolate`), or as `numactl` was told."""
    compute_lock: Path | None = None
    """A file that CPU workers of one host share so that only one computes at a time; unset means no lock."""

    prompt_layout: PromptLayout = "template"
    """Where system prompt, tools and environment stand (`prompt_layout.py`); the template's order is the default."""
    speculation: Literal["auto", "none", "lookup", "draft"] = "auto"
    """How tokens are guessed ahead, for requests that don't say: from earlier text (`lookup`), by the draft model, or
    whichever pays."""
    speculation_tokens: int = Field(default=16, ge=1, le=64)
    """Most tokens guessed for one answer in one step."""
    draft: str = ""
    """A small model of the same vocabulary that guesses tokens: the name of a configured model, a name of the
    catalogue, a path, or `hf:REPO/FILE`. Resolved by the command line."""
    draft_path: Path | None = None
    """The GGUF file of the draft model."""

    tool_grammar: bool = True
    """Whether a call that the model begins is held to the tools offered and their schemas."""
    tool_gate: bool = False
    """Whether the model is asked first, in a short prompt of its own, if a person's message needs a tool at all
    (`tool_gate.py`); if it is sure, the answer begins with a call, or can't call."""
    announced_calls: bool = True
    """Whether an answer that says which tool it will use goes on with that call (`announced_call.py`)."""

    temperature: float = Field(default=0.7, ge=0, le=5)
    """Default of requests that name none."""
    top_p: float = Field(default=0.8, gt=0, le=1)
    """Default of requests that name none."""
    top_k: int = Field(default=20, ge=0)
    """Default of requests that name none; 0 keeps all tokens."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Default of requests that name none."""
    repeat_penalty: float = Field(default=1.0, gt=0, le=3)
    """Default of requests that name none; 1 is off."""
