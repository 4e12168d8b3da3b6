"""Says of each request where its state came from, and why a part was missing. Never on the engine's thread."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1 import state_pb2
from services.worker.blocks import Tokens, as_tokens
from services.worker.prompt_difference import Difference, find_difference
from services.worker.prompt_memory import PromptMemory
from services.worker.prompt_places import Line, line_at, place_of
from services.worker.volatile_places import VolatilePlaces

_REMEMBERED: Final = 200
_TOLERANCE: Final = 32  # tokens: shorter tails are not kept
_LEAST_SHARED: Final = 16  # what nearly every prompt of a template begins with
_WORTH_A_REMEDY: Final = 128
_MOST_PLACES: Final = 3
_IN_USER: Final = (
    'Set prompt_layout = "environment_in_user" in [models.{name}]: tools and system prompt then keep their state '
    "whatever the environment says. Small models lose tool calls by it: bench/RESULTS.md has the numbers."
)
_MOVE: Final = "Move what changes from prompt to prompt to the end, such as into the last user message."
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Comparison:
    """A prompt beside the nearest one that was known when it came."""

    number: int | None = None
    """What the prompt is remembered by."""
    known_count: int = 0
    difference: Difference | None = None
    place: pb.PromptPlace | None = None
    remedy: str = ""


@dataclass(frozen=True)
class ModelText:
    """What is needed to say where a prompt differs."""

    name: str
    layout: str
    text_of: Callable[[int], bytes]
    """The bytes of a token, also of a control token."""

    def text(self, tokens: Tokens) -> str:
        """The text of tokens."""
        return b"".join(map(self.text_of, tokens.tolist())).decode(errors="replace")


@dataclass
class Explainer:
    """Compares prompts with those before, and remembers what became of the last requests. Thread-safe."""

    model: ModelText
    worker_id: str = ""
    shows_content: bool = False
    """Whether excerpts may be shown to others than the requester."""
    _prompts: PromptMemory = field(default_factory=PromptMemory)
    _volatile: VolatilePlaces = field(default_factory=VolatilePlaces)
    _last: "deque[state_pb2.ExplainedRequest]" = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def compare(self, request: pb.GenerateRequest, prompt: Sequence[int], *, keeps_state: bool) -> Comparison:
        """Compares a prompt with the nearest known one of its requester, and remembers it if its state is kept."""
        try:
            return self._compare(request, prompt, keeps_state=keeps_state)
        except Exception as error:  # an answer must not fail for want of its explanation
            _log.exception("prompt_not_compared", request_id=request.request_id, exc_info=error)
            return Comparison()

    def _compare(self, request: pb.GenerateRequest, prompt: Sequence[int], *, keeps_state: bool) -> Comparison:
        tenant, tokens = request.context.key_id, as_tokens(prompt)
        with self._guard:  # of two equal prompts that come at once the second one knows the first
            nearest = self._prompts.nearest(tenant, tokens)
            number = self._prompts.add(tenant, tokens) if keeps_state else None
        difference = find_difference(nearest.tokens, tokens) if nearest.shared_count >= _LEAST_SHARED else None
        if difference is None:
            return Comparison(number, nearest.shared_count)
        place, remedy = self._place(request, nearest.tokens, tokens, difference)
        return Comparison(number, nearest.shared_count, difference, place, remedy)

    def settle(self, comparison: Comparison, computed: Sequence[int]) -> None:
        """Notes what of a prompt and its answer was computed in the end."""
        if comparison.number is not None:
            self._prompts.settle(comparison.number, as_tokens(computed))

    def complete(
        self, request: pb.GenerateRequest, comparison: Comparison, finish: pb.Finish, *, prefill_rate: float
    ) -> None:
        """Writes the explanation into the end of an answer, and remembers it."""
        finish.cache.MergeFrom(explanation(comparison, finish.usage, prefill_rate=prefill_rate))
        told = state_pb2.ExplainedRequest(
            request_id=request.request_id, finished_at=time.time(), model=self.model.name, worker_id=self.worker_id,
            request_class=request.context.request_class, usage=finish.usage, cache=finish.cache,
        )  # fmt: skip
        if told.cache.HasField("place") and not self.shows_content:
            told.cache.place.excerpt = told.cache.place.known_excerpt = ""
        self._last.append(told)

    def last(self, limit: int) -> list[state_pb2.ExplainedRequest]:
        """The last requests, the last one first."""
        return list(self._last)[::-1][: limit or None]

    def _place(
        self, request: pb.GenerateRequest, known: Tokens, tokens: Tokens, difference: Difference
    ) -> tuple[pb.PromptPlace, str]:
        text = self.model.text(tokens)
        offset = len(self.model.text(tokens[: difference.start]).rstrip("\N{REPLACEMENT CHARACTER}"))
        known_text = self.model.text(known[: difference.known_end + _LEAST_SHARED * 8])
        line, known_line = line_at(text, offset), line_at(known_text, min(offset, len(known_text)))
        place = place_of(request.chat, text, offset, token_index=difference.start)
        place.excerpt, place.known_excerpt = line.excerpt, known_line.excerpt
        return place, self._remedy(request, text, (line, known_line), place, difference)

    def _remedy(
        self, request: pb.GenerateRequest, text: str, lines: tuple[Line, Line], place: pb.PromptPlace,
        difference: Difference,
    ) -> str:  # fmt: skip
        """What helps, if the place is early and has differed several times before."""
        is_early = place.role in (pb.ROLE_UNSPECIFIED, pb.ROLE_SYSTEM)
        is_narrow = difference.place_count <= _MOST_PLACES and difference.repeated_count >= _WORTH_A_REMEDY
        if not (is_early and is_narrow):
            return ""
        line, known_line = lines
        with self._guard:
            seen = self._volatile.note(request.context.key_id, text[: line.start], (line.text, known_line.text))
        if not seen.is_volatile:
            return ""
        remedy = self._remedy_at(request.chat, text, line.start)
        if seen.is_new:
            excerpt = {"excerpt": line.excerpt, "known_excerpt": known_line.excerpt} if self.shows_content else {}
            _log.warning(
                "volatile_prompt_part", request_id=request.request_id, token_index=difference.start,
                message_index=place.message_index if place.HasField("message_index") else None,
                repeated_token_count=difference.repeated_count, remedy=remedy, **excerpt,
            )  # fmt: skip
        return remedy

    def _remedy_at(self, chat: pb.ChatPrompt, text: str, offset: int) -> str:
        begins, ends = text.rfind("<env>", 0, offset), text.find("</env>", offset)
        is_in_environment = begins >= 0 and ends >= 0 and "</env>" not in text[begins:offset]
        if is_in_environment and chat.tools and self.model.layout == "template":
            return _IN_USER.format(name=self.model.name)
        return _MOVE


def explanation(comparison: Comparison, usage: pb.Usage, *, prefill_rate: float) -> pb.CacheExplanation:
    """Says why state was missing and what that cost, given what was found in the caches: pure."""
    told = pb.CacheExplanation(known_token_count=comparison.known_count)
    cached_count, last = usage.cached_token_count, max(0, usage.prompt_token_count - 1)
    reusable_count = min(comparison.known_count, last)
    difference = comparison.difference
    if cached_count >= last or cached_count > comparison.known_count + _TOLERANCE:
        return told  # nothing is missing, or what was found is older than what is remembered here
    if cached_count + _TOLERANCE < reusable_count:
        told.miss = pb.CACHE_MISS_DROPPED
        told.repeated_token_count = reusable_count - cached_count
    elif difference is not None:
        told.miss = pb.CACHE_MISS_DIFFERS
    elif comparison.known_count < _LEAST_SHARED:
        told.miss = pb.CACHE_MISS_UNKNOWN
    if difference is not None and comparison.place is not None:
        told.place.CopyFrom(comparison.place)
        told.repeated_token_count += difference.repeated_count
        told.remedy = comparison.remedy
    told.repeated_seconds = told.repeated_token_count / prefill_rate if prefill_rate > 0 else 0.0
    return told
