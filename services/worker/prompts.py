"""Turns a request into what the engine needs: tokens, limits, sampling options. Raises what the client must be told."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import ContextLengthExceeded, InvalidRequest
from services.worker.chat_template import ChatTemplate
from services.worker.grammar import call_grammar, offered_call_grammar, response_grammar
from services.worker.llama import LlamaModel
from services.worker.reasoning import ReasoningFormat, pick_reasoning
from services.worker.sampling import SamplingOptions, check_grammar
from services.worker.settings import WorkerSettings
from services.worker.tool_calls import pick_format

BATCH_CLASSES: Final = frozenset({pb.REQUEST_CLASS_TITLE, pb.REQUEST_CLASS_COMPACTION})
_MAX_TOP_LOGPROBS: Final = 20


@dataclass(frozen=True)
class Prepared:
    """A request that is valid for this model."""

    tokens: list[int]
    max_tokens: int
    options: SamplingOptions
    reasoning: ReasoningFormat | None
    call_grammar: str
    """What a call must look like from its opening brace on, where the model itself decides to call; else empty."""


class Preparer:
    """Prepares requests for one model. Thread-safe."""

    def __init__(
        self, model: LlamaModel, template_source: str, settings: WorkerSettings, *, context_length: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC).astimezone(),
    ) -> None:  # fmt: skip
        self._model, self._settings = model, settings
        self._template_source = template_source
        self.call_format = pick_format(template_source)
        self._template = ChatTemplate(
            template_source, bos_token=model.bos_text, eos_token=model.eos_text, special_tokens=model.special_tokens
        )
        self._context_length, self._now = context_length, now

    def prepare(self, request: pb.GenerateRequest) -> Prepared:
        """Validates, renders and tokenizes a request."""
        text, tokens = self._prompt(request)
        if not tokens:
            raise InvalidRequest("The prompt is empty.", param="messages")
        if any(not 0 <= token < self._model.vocab_size for token in request.resume_tokens):
            raise InvalidRequest("resume_tokens holds a token that this model does not have.", param="resume_tokens")
        if len(tokens) >= self._context_length:
            raise ContextLengthExceeded.of(len(tokens), self._context_length)
        left = self._context_length - len(tokens)
        wanted = request.max_tokens if request.HasField("max_tokens") else left
        if wanted < 1:
            raise InvalidRequest("max_tokens must be at least 1.", param="max_tokens")
        reasoning = pick_reasoning(self._template_source, text) if request.HasField("chat") else None
        options = self._options(request)
        return Prepared(tokens, min(wanted, left), options, reasoning, self._call_grammar(request, options))

    def render(self, chat: pb.ChatPrompt) -> tuple[str, list[int]]:
        """Applies the chat template; returns the text and its tokens."""
        _refuse_images(chat, self._settings.name)
        rendered = self._template.render(chat, now=self._now())
        tokens: list[int] = []
        if self._model.adds_bos and not rendered.text.startswith(self._model.bos_text):
            tokens.append(self._model.bos)
        for segment in rendered.segments:
            tokens += self._model.tokenize(segment.text, add_special=False, parse_special=segment.parse_special)
        return rendered.text, tokens

    def _prompt(self, request: pb.GenerateRequest) -> tuple[str, list[int]]:
        if request.WhichOneof("prompt") == "text":
            return request.text, self._model.tokenize(request.text, add_special=True, parse_special=True)
        return self.render(request.chat)

    def _options(self, request: pb.GenerateRequest) -> SamplingOptions:
        asked, defaults = request.sampling, self._settings
        if request.HasField("top_logprobs") and request.top_logprobs > _MAX_TOP_LOGPROBS:
            raise InvalidRequest(f"top_logprobs must be at most {_MAX_TOP_LOGPROBS}.", param="top_logprobs")
        for token in asked.logit_bias:
            if not 0 <= token < self._model.vocab_size:
                raise InvalidRequest(f"logit_bias names token {token}, which does not exist.", param="logit_bias")
        return SamplingOptions(
            temperature=asked.temperature if asked.HasField("temperature") else defaults.temperature,
            top_p=asked.top_p if asked.HasField("top_p") else defaults.top_p,
            top_k=asked.top_k if asked.HasField("top_k") else defaults.top_k,
            min_p=asked.min_p if asked.HasField("min_p") else defaults.min_p,
            seed=asked.seed if asked.HasField("seed") else random.getrandbits(31),
            frequency_penalty=asked.frequency_penalty,
            presence_penalty=asked.presence_penalty,
            repeat_penalty=asked.repeat_penalty if asked.HasField("repeat_penalty") else defaults.repeat_penalty,
            logit_bias=dict(asked.logit_bias),
            grammar=self._grammar(request),
        )

    def _grammar(self, request: pb.GenerateRequest) -> str:
        chat = request.chat
        parallel = chat.parallel_tool_calls or not chat.HasField("parallel_tool_calls")
        if forced := call_grammar(chat.tools, chat.tool_choice, parallel=parallel):
            return forced
        grammar = response_grammar(request.response_format)
        if grammar:
            check_grammar(self._model, grammar, param=_format_field(request.response_format))
        return grammar

    def _call_grammar(self, request: pb.GenerateRequest, options: SamplingOptions) -> str:
        chat = request.chat
        may_call = chat.tools and chat.tool_choice.mode != pb.TOOL_CHOICE_MODE_NONE
        return (
            offered_call_grammar(chat.tools) if may_call and not options.grammar and self._settings.tool_grammar else ""
        )


def _format_field(response_format: pb.ResponseFormat) -> str:
    return "grammar" if response_format.WhichOneof("format") == "grammar" else "response_format"


def _refuse_images(chat: pb.ChatPrompt, model: str) -> None:
    for index, message in enumerate(chat.messages):
        if any(part.HasField("image") for part in message.content):
            raise InvalidRequest(
                f"The model {model!r} does not see images; send text only or choose a vision model.",
                param=f"messages[{index}].content",
            )
