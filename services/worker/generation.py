"""One request on its way through the engine."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.answer import Answer
from services.worker.blocks import HashedTokens
from services.worker.parking import CacheSources
from services.worker.sampling import Sampler
from services.worker.speculation import NO_SPECULATION, Speculation, SpeculationOptions

NO_SEQUENCE: Final = -1
Event = pb.GenerateResponse | Exception


@dataclass(eq=False)
class Generation:
    """The state of one request. After it was submitted only the engine thread changes it."""

    request_id: str
    tokens: list[int]
    """The prompt, then what was generated."""
    prompt_token_count: int
    max_tokens: int
    sampler: Sampler
    make_answer: Callable[[], Answer]
    deliver: Callable[[Event], None]
    """Takes events in order; the last one is a `finish` or an exception."""
    arrived_at: float
    is_batch: bool = False
    keeps_state: bool = True
    """Whether its KV state is parked when it ends."""
    kept_count: int | None = None
    """How many of its tokens' state is parked at most; all by default."""
    top_logprobs: int | None = None
    first_call_grammar: str = ""
    """What the answer must look like until it has made a call; empty lets the model decide."""
    call_grammar: str = ""
    """What a call must look like from its opening on; empty lets it be anything."""
    open_announced_call: Callable[[str], list[int]] | None = None
    """Given an answer without calls: the tokens that open the call which it announces, if any."""

    speculation_options: SpeculationOptions = NO_SPECULATION
    """How its tokens may be guessed."""

    checkpoints: tuple[int, ...] = ()
    """Lengths of the prompt at which its state is kept, ascending; for models whose state can't be cut later."""

    answer: Answer = field(init=False)
    speculation: Speculation = field(init=False)
    sequence_id: int = NO_SEQUENCE
    computed_count: int = 0
    guessed_count: int = 0
    """Tokens in cells behind the computed ones that were guessed and not confirmed."""
    cache_key: HashedTokens | None = None
    """Its tokens, prepared for looking up KV state while it waits."""
    cached: CacheSources = field(default_factory=CacheSources)
    """Tokens whose KV state was there when it started."""
    fetched_count: int = 0
    """Tokens whose KV state was brought into host memory for it, from the block store."""
    was_fetched_remotely: bool = False
    """Whether that came through the cache service instead of from a directory."""
    restore_seconds: float = 0.0
    """How long it took to bring state back, from the store and into cells."""
    delayed_seconds: float = 0.0
    """How much longer its steps took for the batch work beside it."""
    started_at: float | None = None
    first_token_at: float | None = None
    is_cancelled: bool = False
    has_waited: bool = False
    """Whether it waits for a sibling's tokens."""
    sibling: "Generation | None" = None
    """Whose tokens it waits for, and how many of them it will share."""
    promised_count: int = 0
    blocked_at: int = -1
    """How many requests had given up their cells when too few were free for this one."""
    last_progress: tuple[int, int] = field(default=(-1, -1))
    posted_at: float = -math.inf
    """When something that it said was last handed over."""

    rewind_count: int = 0

    awaits_call: bool = False
    """Whether it must call and has not begun to."""

    def __post_init__(self) -> None:
        if self.first_call_grammar:
            self.sampler.constrain(self.first_call_grammar, "")
            self.awaits_call = True
        self.answer = self.make_answer()
        self.speculation = Speculation(self.speculation_options, self.tokens)

    @property
    def pending_count(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return len(self.tokens) - self.computed_count

    @property
    def is_decoding(self) -> bool:
        """Whether only the last generated token is left to compute."""
        count = len(self.tokens)
        return count > self.prompt_token_count and count - self.computed_count == 1

    @property
    def generated_count(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_token_count

    @property
    def kept_tokens(self) -> list[int]:
        """The tokens whose state is parked when it ends."""
        count = self.computed_count if self.kept_count is None else min(self.kept_count, self.computed_count)
        return self.tokens[:count]

    @property
    def is_complete(self) -> bool:
        """Whether no token is left to generate."""
        return self.answer.is_done or self.generated_count >= self.max_tokens

    @property
    def is_running(self) -> bool:
        """Whether it holds a slot."""
        return self.sequence_id != NO_SEQUENCE

    def rewind(self, kept_count: int, piece: Callable[[int], bytes]) -> None:
        """Forgets all but the first generated tokens; what was delivered of them stays delivered."""
        del self.tokens[self.prompt_token_count + kept_count :]
        self.computed_count = min(self.computed_count, len(self.tokens) - 1)
        self.rewind_count += 1
        self.speculation.forget()
        self.answer = self.make_answer()
        for token in self.tokens[self.prompt_token_count :]:
            self.answer.feed(token, piece(token))
