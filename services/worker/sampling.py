"""Chooses tokens with llama.cpp's samplers, and reports how likely they were."""

import ctypes
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import sha256
from typing import Any, Final

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.candidates import Candidates
from services.worker.llama import LlamaModel
from services.worker.sampling_options import (
    RANDOM_SEED,
    SamplingOptions,
    Step,
    chain_steps,
    distance_needed,
    likeliest_needed,
    only_lowers,
)

_GRAMMAR_TRIES: Final = 128  # of the likeliest tokens before a grammar is applied to all
_Handle = Any  # a `llama_sampler *`


class Sampler:
    """The samplers of one request. Use it from one thread; `close` frees llama.cpp's side.

    `candidates` is memory that samplers of one thread may share. The first token is none of `forbidden_first`.
    A grammar that can't be parsed raises `ValueError`.
    """

    def __init__(
        self, model: LlamaModel, options: SamplingOptions, candidates: Candidates | None = None, *,
        forbidden_first: Collection[int] = (),
    ) -> None:  # fmt: skip
        self._chain = self._grammar = None
        self._model = model
        self._candidates = candidates or Candidates(model.vocab_size)
        self._single = Candidates(1)
        steps = chain_steps(options)
        self._likeliest_needed, self._distance_needed = likeliest_needed(steps), distance_needed(steps)
        self._only_lowers = only_lowers(options)
        self._biased = frozenset(options.logit_bias)
        self._recent = _RecentTokens(options.window)
        self._has_own_grammar = bool(options.grammar)
        self._grammar = _grammar(model, options.grammar) if options.grammar else None
        self._chain = None if steps == [Step("greedy")] else _chain(model, options, steps)
        self._seed = options.seed if steps[-1].name == "dist" else None
        self._draw_count = 0
        self._forbidden = list(forbidden_first)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Frees the samplers."""
        for sampler in (self._chain, self._grammar):
            if sampler:
                llama_cpp.llama_sampler_free(sampler)
        self._chain = self._grammar = None

    def read_prompt(self, tokens: Sequence[int]) -> None:
        """Tells penalties what stands before the answer."""
        for token in tokens[-self._recent.size :] if self._recent.size else ():
            self._count(token)

    def sample(self, logits: NDArray[np.float32]) -> int:
        """Chooses and accepts the next token; where the request's grammar allows none, that is a token that ends."""
        if self._forbidden:
            logits = logits.copy()
            logits[self._forbidden] = -np.inf
            self._forbidden = []
        if self._chain is None and self._grammar is None:
            return int(logits.argmax())
        token = self._choose(logits)
        if self._grammar:
            if not self._grammar_allows(token):
                token = self._choose_allowed(logits)
                if self._grammar and not self._grammar_allows(token):
                    token = self._nothing_allowed(logits)
            if self._grammar:
                llama_cpp.llama_sampler_accept(self._grammar, token)
        self._count(token)
        return token

    def accept(self, token: int) -> None:
        """Tells the samplers of a token that was chosen; one that breaks the grammar ends the grammar."""
        self._count(token)
        if self._grammar:
            self._accept_in_grammar(token)

    @property
    def is_constrained(self) -> bool:
        """Whether `constrain` holds."""
        return self._grammar is not None and not self._has_own_grammar

    def constrain(self, grammar: str, written: str) -> None:
        """Holds what follows to a grammar whose first characters were written already.

        Does nothing if the request has a grammar of its own, or if what was written breaks this one.
        """
        if self._has_own_grammar:
            return
        self.release()
        self._grammar = _grammar(self._model, grammar)
        for token in self._model.tokenize(written, add_special=False, parse_special=False):
            self._accept_in_grammar(token)

    def release(self) -> None:
        """Ends what `constrain` began."""
        if not self._has_own_grammar:
            self._drop_grammar()

    def _drop_grammar(self) -> None:
        if self._grammar:
            llama_cpp.llama_sampler_free(self._grammar)
        self._grammar = None

    def _count(self, token: int) -> None:
        self._draw_count += 1
        if self._chain:
            llama_cpp.llama_sampler_accept(self._chain, token)
        self._recent.add(token)

    def _accept_in_grammar(self, token: int) -> None:
        """llama.cpp aborts the process on a token that its grammar does not allow, so it is asked first."""
        if self._grammar and self._grammar_allows(token):
            llama_cpp.llama_sampler_accept(self._grammar, token)
        else:
            self._drop_grammar()

    def _choose(self, logits: NDArray[np.float32]) -> int:
        if self._chain is None or self._only_lowers:
            likeliest = int(logits.argmax())
            if self._chain is None or not (likeliest in self._biased or likeliest in self._recent):
                return likeliest
        if not (self._take_likeliest(logits, self._likeliest_needed) or self._take_near(logits)):
            self._candidates.take_all(logits)
        return self._run_chain()

    def _choose_allowed(self, logits: NDArray[np.float32]) -> int:
        """Chooses among what the grammar allows: of the likeliest if they suffice, else of the whole vocabulary."""
        needed = self._likeliest_needed
        if needed is not None and self._take_likeliest(logits, max(needed, _GRAMMAR_TRIES)):
            self._candidates.apply(self._grammar)
            if self._candidates.drop_impossible() >= needed + self._changed_count:
                return self._run_chain(is_second=True)
        self._candidates.take_all(logits)
        self._candidates.apply(self._grammar)
        if not self._candidates.drop_impossible():
            return self._nothing_allowed(logits)
        likeliest = self._candidates.likeliest
        if likeliest in self._model.end_tokens and self._model.end_tokens.issuperset(self._candidates.tokens()):
            return likeliest  # also where a bias forbids it: the grammar has nothing else
        return self._run_chain(is_second=True)

    def _nothing_allowed(self, logits: NDArray[np.float32]) -> int:
        """A grammar that no token can continue: the answer ends, or a call that was held goes on freely."""
        self._drop_grammar()
        if self._has_own_grammar and self._model.end_tokens:
            return min(self._model.end_tokens)
        return self._choose(logits)

    def _take_likeliest(self, logits: NDArray[np.float32], count: int | None) -> bool:
        if count is None:
            return False
        changed = [*self._biased, *self._recent]
        return self._candidates.take_likeliest(logits, count + len(changed), changed)

    def _take_near(self, logits: NDArray[np.float32]) -> bool:
        return self._distance_needed is not None and self._candidates.take_within(logits, self._distance_needed)

    @property
    def _changed_count(self) -> int:
        """Most tokens whose logits the chain may change before it looks for the likeliest."""
        return len(self._biased) + len(self._recent)

    def _run_chain(self, *, is_second: bool = False) -> int:
        if self._chain is None:
            return self._candidates.likeliest
        if self._seed is not None:
            _reseed(self._chain, draw_seed(self._seed, self._draw_count, is_second=is_second))
        self._candidates.apply(self._chain)
        return self._candidates.chosen

    def _grammar_allows(self, token: int) -> bool:
        if b"\0" in self._model.piece(token):
            return False  # llama.cpp takes a zero for the end of a token, lets it pass and then aborts
        self._single.take_one(token)
        self._single.apply(self._grammar)
        return self._single.drop_impossible() == 1


class _RecentTokens:
    """The different ones of the last tokens."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._last: deque[int] = deque(maxlen=size)
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._counts)

    def __iter__(self) -> Iterator[int]:
        return iter(self._counts)

    def __contains__(self, token: int) -> bool:
        return token in self._counts

    def add(self, token: int) -> None:
        if not self.size:
            return
        if len(self._last) == self.size:
            oldest = self._last[0]
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
        self._last.append(token)
        self._counts[token] += 1


def token_logprob(
    logits: NDArray[np.float32], token: int, *, top_count: int, piece: Callable[[int], bytes]
) -> pb.TokenLogprob:
    """Reports the log-probability of a token before any sampler, and of the likeliest alternatives."""
    highest = float(logits.max())
    log_total = highest + float(np.log(np.exp(logits - highest, dtype=np.float64).sum()))
    top: list[int] = []
    if top_count:
        likeliest = np.argpartition(logits, -top_count)[-top_count:]
        top = [int(i) for i in likeliest[np.argsort(-logits[likeliest], kind="stable")]]
    entries = []
    for i in top:
        data = piece(i)
        entries.append(pb.TopLogprob(token=_text(data), token_bytes=data, logprob=float(logits[i]) - log_total))
    data = piece(token)
    logprob = float(logits[token]) - log_total
    return pb.TokenLogprob(token=_text(data), token_bytes=data, logprob=logprob, top=entries)


def _chain(model: LlamaModel, options: SamplingOptions, steps: Sequence[Step]) -> _Handle:
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    for step in steps:
        llama_cpp.llama_sampler_chain_add(chain, _sampler(model, options, step))
    return chain


def _sampler(model: LlamaModel, options: SamplingOptions, step: Step) -> _Handle:
    match step.name:
        case "logit_bias":
            entries = [llama_cpp.llama_logit_bias(token, bias) for token, bias in options.logit_bias.items()]
            biases = (llama_cpp.llama_logit_bias * len(entries))(*entries)
            return llama_cpp.llama_sampler_init_logit_bias(model.vocab_size, len(biases), biases)
        case "dry":
            texts = [text.encode() for text in options.dry_sequence_breakers]
            breakers = (ctypes.c_char_p * len(texts))(*texts)
            return llama_cpp.llama_sampler_init_dry(model.vocab, *step.arguments, breakers, len(texts))
        case "infill":
            return llama_cpp.llama_sampler_init_infill(model.vocab)
        case "penalties" | "mirostat":
            return getattr(llama_cpp, f"llama_sampler_init_{step.name}")(model.vocab_size, *step.arguments)
    return getattr(llama_cpp, f"llama_sampler_init_{step.name}")(*step.arguments)


def draw_seed(seed: int, position: int, *, is_second: bool) -> int:
    """The seed of one draw, from a request's seed and the tokens it has.

    With it the choice at a position does not depend on how many draws this process made before: an answer that goes on
    in another process, or is drawn again under a grammar, continues as it would have without.
    """
    drawn = sha256(f"{seed},{position},{is_second:d}".encode()).digest()
    return int.from_bytes(drawn[:4], "little") % RANDOM_SEED


def _reseed(chain: _Handle, seed: int) -> None:
    last = llama_cpp.llama_sampler_chain_n(chain) - 1
    llama_cpp.llama_sampler_free(llama_cpp.llama_sampler_chain_remove(chain, last))
    llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_dist(seed))


def _grammar(model: LlamaModel, grammar: str) -> _Handle:
    sampler = llama_cpp.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
    if not sampler:
        raise ValueError("the grammar can't be parsed: it must be GBNF with a rule named `root`")
    return sampler


def _text(piece: bytes) -> str:
    return piece.decode(errors="replace")
