"""Turns a request into what the engine needs: tokens, limits, sampling options. Raises what the client must be told."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import ContextLengthExceeded, InvalidRequest
from services.worker.announced_call import announced_tool, opening_of_call
from services.worker.chat_template import ChatTemplate
from services.worker.grammar import response_grammar
from services.worker.llama import LlamaModel
from services.worker.prompt_layout import lay_out
from services.worker.reasoning import REASONING_TEXTS, Reasoning, content_of, pick_reasoning
from services.worker.replay import ReplayMemory, Spoken, Transcript, opening_of
from services.worker.sampling_options import SamplingOptions, check_bounds
from services.worker.scheduler import shared_length
from services.worker.settings import WorkerSettings
from services.worker.system_prefix import SystemPrefix
from services.worker.tool_calls import pick_format
from services.worker.tool_calls.grammar import call_grammar, first_call_grammar, offered_call_grammar

BATCH_CLASSES: Final = frozenset({pb.REQUEST_CLASS_TITLE, pb.REQUEST_CLASS_COMPACTION})
_MAX_TOP_LOGPROBS: Final = 20
_MAX_BIAS: Final = 1000.0
_CONFIGURED: Final = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty")
_OPTIONAL: Final = (
    *_CONFIGURED, "min_keep", "seed", "frequency_penalty", "presence_penalty", "repeat_last_n", "typical_p",
    "top_n_sigma", "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base", "dry_allowed_length",
    "dry_penalty_last_n", "mirostat", "mirostat_tau", "mirostat_eta", "dynatemp_range", "dynatemp_exponent",
    "adaptive_target", "adaptive_decay",
)  # fmt: skip
_LISTS: Final = ("dry_sequence_breakers", "samplers")


@dataclass(frozen=True)
class Prepared:
    """A request that is valid for this model."""

    tokens: list[int]
    max_tokens: int
    options: SamplingOptions
    reasoning: Reasoning | None
    call_grammar: str
    """What a call must look like from its opening on, where the model itself decides to call; else empty."""
    open_announced_call: Callable[[str], list[int]] | None
    """Given an answer without calls: the tokens that open the call which it announces, if any."""
    opening: str
    """The end of the prompt's text."""
    checkpoints: tuple[int, ...] = ()
    """Lengths of the prompt at which a state that can't be cut is worth keeping."""
    system_token_count: int = 0
    """Tokens of the prompt's beginning that are tools and system text."""
    first_call_grammar: str = ""
    """What the answer must look like until it has made a call; empty where the model decides."""


class Preparer:
    """Prepares requests for one model. Thread-safe."""

    def __init__(
        self, model: LlamaModel, template_source: str, settings: WorkerSettings, *, context_length: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC).astimezone(),
    ) -> None:  # fmt: skip
        self._model, self._settings = model, settings
        self._template_source = template_source
        self.call_format = pick_format(template_source)
        model.show({*self.call_format.special_texts, *REASONING_TEXTS})
        self._template = ChatTemplate(
            template_source,
            bos_token=model.bos_text,
            eos_token=model.eos_text,
            special_tokens=model.special_tokens,
            history_id=self.call_format.history_id,
        )
        self._context_length, self._now = context_length, now
        self.replays = ReplayMemory()
        self._system_prefix = SystemPrefix(lambda chat: self.render(chat)[1])

    def prepare(self, request: pb.GenerateRequest, *, must_call: bool = False) -> Prepared:
        """Validates, renders and tokenizes a request; `must_call` lets the answer begin with a call."""
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
        options = self._options(request, reasoning)
        call_grammar = self._call_grammar(request, options)
        return Prepared(
            tokens, min(wanted, left), options, reasoning, call_grammar,
            self._opens_announced_call(request.chat, reasoning) if call_grammar else None, opening_of(text),
            self._checkpoints(request, tokens), self._system_prefix.token_count(request.chat, tokens),
            first_call_grammar(self.call_format, request.chat.tools, reasoning=reasoning) if must_call else "",
        )  # fmt: skip

    def render(self, chat: pb.ChatPrompt) -> tuple[str, list[int]]:
        """Applies the chat template; returns the text and its tokens."""
        _refuse_images(chat, self._settings.name)
        chat = lay_out(chat, self._settings.prompt_layout)
        rendered = self._template.replay(chat, now=self._now(), spoken=self.replays.recall(_answered(chat)))
        tokens: list[int] = []
        if self._model.adds_bos and not rendered.text.startswith(self._model.bos_text):
            tokens.append(self._model.bos)
        for segment in rendered.segments:
            if segment.token_ids is not None:
                tokens += segment.token_ids
            else:
                tokens += self._model.tokenize(segment.text, add_special=False, parse_special=segment.parse_special)
        return rendered.text, tokens

    def remember(
        self, request: pb.GenerateRequest, prepared: Prepared, transcript: Transcript, token_ids: Sequence[int]
    ) -> None:
        """Remembers the tokens of a whole answer, for when it comes back as part of a prompt."""
        if not request.HasField("chat") or not token_ids or _answered(request.chat) != request.chat:
            return
        text = b"".join(map(self._model.piece, token_ids)).decode(errors="replace")
        spoken = Spoken(tuple(token_ids), text, "".join(transcript.reasoning), prepared.opening)
        self.replays.remember(request.chat, transcript, spoken)

    def _prompt(self, request: pb.GenerateRequest) -> tuple[str, list[int]]:
        if request.WhichOneof("prompt") == "text":
            return request.text, self._model.tokenize(request.text, add_special=True, parse_special=True)
        return self.render(request.chat)

    def _checkpoints(self, request: pb.GenerateRequest, tokens: list[int]) -> tuple[int, ...]:
        """Finds where other prompts will leave this one: behind system text and tools, the last question, the end.

        Each a token early, which is left to compute for a prompt that ends there.
        """
        if self._model.forks_at_any_token:
            return ()
        ends = {len(tokens)}
        for beginning in _beginnings(request.chat):
            try:
                ends.add(shared_length(tokens, self.render(beginning)[1]))
            except InvalidRequest:  # the template refuses so short a conversation
                continue
        return tuple(sorted(end - 1 for end in ends if end > 1))

    def _options(self, request: pb.GenerateRequest, reasoning: Reasoning | None) -> SamplingOptions:
        asked = request.sampling
        if request.HasField("top_logprobs") and request.top_logprobs > _MAX_TOP_LOGPROBS:
            raise InvalidRequest(f"top_logprobs must be at most {_MAX_TOP_LOGPROBS}.", param="top_logprobs")
        check_bounds(asked)
        defaults = {name: getattr(self._settings, name) for name in _CONFIGURED}
        given = {name: getattr(asked, name) for name in _OPTIONAL if asked.HasField(name)}
        lists = {name: tuple(getattr(asked, name)) for name in _LISTS if getattr(asked, name)}
        return SamplingOptions(**{
            "seed": random.getrandbits(31), **defaults, **given, **lists,
            "logit_bias": self._logit_bias(asked), "grammar": self._grammar(request, reasoning),
            "history_limit": self._context_length,
        })  # fmt: skip

    def _logit_bias(self, asked: pb.SamplingParams) -> dict[int, float]:
        biases = dict(asked.logit_bias)
        for token in biases:
            if not 0 <= token < self._model.vocab_size:
                raise InvalidRequest(f"logit_bias names token {token}, which does not exist.", param="logit_bias")
        for item in asked.text_bias:
            for token in self._model.tokenize(item.text, add_special=False, parse_special=False):
                biases[token] = biases.get(token, 0.0) + item.bias
        if any(math.isnan(bias) or bias > _MAX_BIAS for bias in biases.values()):
            raise InvalidRequest("logit_bias holds a value that is too high.", param="logit_bias")
        if asked.ignore_eos:
            biases |= dict.fromkeys(self._model.end_tokens, -math.inf)
        return biases

    def _grammar(self, request: pb.GenerateRequest, reasoning: Reasoning | None) -> str:
        chat = request.chat
        parallel = chat.parallel_tool_calls or not chat.HasField("parallel_tool_calls")
        if forced := call_grammar(
            self.call_format, chat.tools, chat.tool_choice, parallel=parallel, reasoning=reasoning
        ):
            return forced
        return response_grammar(request.response_format)

    def _call_grammar(self, request: pb.GenerateRequest, options: SamplingOptions) -> str:
        chat = request.chat
        may_call = chat.tools and chat.tool_choice.mode != pb.TOOL_CHOICE_MODE_NONE
        is_held = may_call and not options.grammar and self._settings.tool_grammar
        return offered_call_grammar(self.call_format, chat.tools) if is_held else ""

    def _opens_announced_call(
        self, chat: pb.ChatPrompt, reasoning: Reasoning | None
    ) -> Callable[[str], list[int]] | None:
        """Only an answer to a person is taken at its word: behind results of tools it may sum up what could be done."""
        is_asked = bool(chat.messages) and chat.messages[-1].role == pb.ROLE_USER
        if not is_asked or not self._settings.announced_calls:
            return None
        names = [tool.name for tool in chat.tools]

        def opening(answer: str) -> list[int]:
            name = announced_tool(content_of(answer, reasoning), names)
            text = opening_of_call(self.call_format.shape, name) if name else ""
            return self._model.tokenize(text, add_special=False, parse_special=True) if text else []

        return opening


def _answered(chat: pb.ChatPrompt) -> pb.ChatPrompt:
    """The part of a conversation whose answers are complete: all but a last answer that the model must continue."""
    if not chat.messages or chat.messages[-1].role != pb.ROLE_ASSISTANT:
        return chat
    complete = pb.ChatPrompt()
    complete.CopyFrom(chat)
    del complete.messages[-1]
    return complete


def _beginnings(chat: pb.ChatPrompt) -> Iterator[pb.ChatPrompt]:
    """A conversation with nothing but its system text and tools, and one that ends at its last question."""
    roles = [message.role for message in chat.messages]
    if pb.ROLE_USER not in roles:
        return
    first = roles.index(pb.ROLE_USER)
    last = len(roles) - 1 - roles[::-1].index(pb.ROLE_USER)
    empty = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text="")])
    for messages in ([*chat.messages[:first], empty], chat.messages[: last + 1]):
        beginning = pb.ChatPrompt(tools=chat.tools, template_kwargs_json=chat.template_kwargs_json)
        beginning.messages.extend(messages)
        yield beginning


def _refuse_images(chat: pb.ChatPrompt, model: str) -> None:
    for index, message in enumerate(chat.messages):
        if any(part.HasField("image") for part in message.content):
            raise InvalidRequest(
                f"The model {model!r} does not see images; send text only or choose a vision model.",
                param=f"messages[{index}].content",
            )
