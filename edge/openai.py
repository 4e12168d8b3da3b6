"""The request of OpenAI's chat completions, as far as its types go."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_STOP_COUNT: Final = 16
MAX_CHOICE_COUNT: Final = 16
MAX_GUESSED_COUNT: Final = 64
MOST: Final = 2**31 - 1
Bias = Annotated[float, Field(ge=-100, le=100)]
# llama-server's form: a token id or a text, and a bias or false, which forbids it.
BiasPair = Annotated[list[int | str | float | bool], Field(min_length=2, max_length=2)]
SamplerName = Literal[
    "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "typical_p", "top_p", "min_p", "xtc", "temperature",
    "infill", "adaptive_p",
]  # fmt: skip


class WireModel(BaseModel):
    """Base of all parts: types are taken literally, unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)


class ImageUrl(WireModel):
    """Where an image is."""

    url: str


class ContentPart(WireModel):
    """A piece of a message."""

    type: Literal["text", "image_url", "refusal"]
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None


class FunctionCall(WireModel):
    """A function and its arguments."""

    name: str = Field(min_length=1)
    arguments: str | dict[str, Any] | None = None


class ToolCall(WireModel):
    """A call that the assistant made."""

    id: str = Field(min_length=1)
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(WireModel):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Function(WireModel):
    """A function the model may call."""

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(WireModel):
    """A tool the model may use."""

    type: Literal["function"]
    function: Function


class FunctionName(WireModel):
    """The name of a function."""

    name: str


class NamedToolChoice(WireModel):
    """The one function that must be called."""

    type: Literal["function"]
    function: FunctionName


class JsonSchema(WireModel):
    """The schema of an answer."""

    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(WireModel):
    """The shape of an answer; llama-server's `schema` beside `json_object` is understood too, and `pattern`."""

    type: Literal["text", "json_object", "json_schema", "regex"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    pattern: str | None = None


class SamplingFields(WireModel):
    """How tokens are chosen: OpenAI's fields, then those of llama-server by its names."""

    seed: int | None = None
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, ge=0, le=1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[str, Bias] | list[BiasPair] | None = None

    top_k: int | None = Field(default=None, ge=-1, le=MOST)
    min_p: float | None = Field(default=None, ge=0, le=1)
    min_keep: int | None = Field(default=None, ge=0, le=MOST)
    typical_p: float | None = Field(default=None, ge=0, le=1)
    top_n_sigma: float | None = Field(default=None, ge=-1, le=100)
    xtc_probability: float | None = Field(default=None, ge=0, le=1)
    xtc_threshold: float | None = Field(default=None, ge=0, le=1)
    dry_multiplier: float | None = Field(default=None, ge=0, le=100)
    dry_base: float | None = Field(default=None, ge=0, le=100)
    dry_allowed_length: int | None = Field(default=None, ge=0, le=MOST)
    dry_penalty_last_n: int | None = Field(default=None, ge=-1, le=MOST)
    dry_sequence_breakers: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, min_length=1, max_length=16
    )
    mirostat: int | None = Field(default=None, ge=0, le=2)
    mirostat_tau: float | None = Field(default=None, ge=0, le=100)
    mirostat_eta: float | None = Field(default=None, ge=0, le=1)
    dynatemp_range: float | None = Field(default=None, ge=0, le=100)
    dynatemp_exponent: float | None = Field(default=None, ge=0, le=100)
    repeat_penalty: float | None = Field(default=None, ge=0.001, le=10)
    repetition_penalty: float | None = Field(default=None, ge=0.001, le=10)
    repeat_last_n: int | None = Field(default=None, ge=-1, le=MOST)
    adaptive_target: float | None = Field(default=None, ge=-1, le=1)
    adaptive_decay: float | None = Field(default=None, ge=0, le=0.99)
    samplers: list[SamplerName] | None = Field(default=None, min_length=1)
    ignore_eos: bool | None = None


class StreamOptions(WireModel):
    """What a stream has beyond the answer."""

    include_usage: bool | None = None


class Speculative(WireModel):
    """How tokens may be guessed ahead: an extension, which changes speed and never the answer."""

    kind: Literal["auto", "none", "lookup", "draft"] | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_GUESSED_COUNT)


class ChatCompletionRequest(SamplingFields):
    """The body of `POST /v1/chat/completions`."""

    model: str | None = None
    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICE_COUNT)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP_COUNT)] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    guided_json: dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_grammar: str | None = None
    guided_choice: list[str] | None = Field(default=None, min_length=1)
    modalities: list[str] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    speculative: Speculative | None = None
    prompt_cache_key: str | None = None
    prompt_cache_key_camel: str | None = Field(default=None, alias="promptCacheKey")
