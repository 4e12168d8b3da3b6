"""Chooses tokens with llama.cpp's samplers, and reports how likely they were."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest
from services.worker.llama import LlamaModel

_PENALTY_WINDOW: Final = 64
_CANDIDATE: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_RANDOM_SEED: Final = 0xFFFFFFFF
_Handle = Any  # a `llama_sampler *`


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen, all defaults filled in. Meanings: `localcode.inference.v1.SamplingParams`."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    grammar: str = ""

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the most likely token is always the answer."""
        has_penalty = self.frequency_penalty or self.presence_penalty or self.repeat_penalty != 1.0
        return self.temperature == 0 and not (has_penalty or self.logit_bias or self.grammar)


class Sampler:
    """The samplers of one request. Use it from one thread; `close` frees llama.cpp's side."""

    def __init__(self, model: LlamaModel, options: SamplingOptions) -> None:
        self._model = model
        self._vocab_size = model.vocab_size
        self._grammar = _grammar(model, options.grammar) if options.grammar else None
        self._chain = None if options.is_plain_greedy else _chain(model, options)
        self._has_own_grammar = bool(options.grammar)
        self._seed = options.seed if options.temperature > 0 else None
        self._draw_count = 0

    def close(self) -> None:
        """Frees the samplers."""
        for sampler in (self._chain, self._grammar):
            if sampler:
                llama_cpp.llama_sampler_free(sampler)
        self._chain = self._grammar = None

    def sample(self, logits: NDArray[np.float32]) -> int:
        """Chooses and accepts the next token."""
        if self._chain is None and self._grammar is None:
            return int(logits.argmax())
        token = self._choose(logits, with_grammar=False)
        if self._grammar and not self._grammar_allows(token):
            token = self._choose(logits, with_grammar=True)
        self.accept(token)
        return token

    def accept(self, token: int) -> None:
        """Tells the samplers of a token that was chosen; one that breaks the grammar ends the grammar."""
        if self._chain:
            llama_cpp.llama_sampler_accept(self._chain, token)
        if self._grammar:
            self._accept_in_grammar(token)
        self._draw_count += 1

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
        if self._grammar and not self._has_own_grammar:
            llama_cpp.llama_sampler_free(self._grammar)
            self._grammar = None

    def _accept_in_grammar(self, token: int) -> None:
        """llama.cpp aborts the process on a token that its grammar does not allow, so it is asked first."""
        if self._grammar and self._grammar_allows(token):
            llama_cpp.llama_sampler_accept(self._grammar, token)
        elif self._grammar:
            llama_cpp.llama_sampler_free(self._grammar)
            self._grammar = None

    def _choose(self, logits: NDArray[np.float32], *, with_grammar: bool) -> int:
        if self._chain is None and not with_grammar:
            return int(logits.argmax())
        candidates = np.empty(self._vocab_size, _CANDIDATE)
        candidates["id"] = np.arange(self._vocab_size, dtype=np.int32)
        candidates["logit"] = logits
        candidates["p"] = 0
        array = _token_data_array(candidates)
        if with_grammar:
            llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        if self._chain is None:
            return int(candidates["id"][candidates["logit"].argmax()])
        if self._seed is not None:
            _reseed(self._chain, draw_seed(self._seed, self._draw_count, is_second=with_grammar))
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _grammar_allows(self, token: int) -> bool:
        single = np.array([(token, 1.0, 0.0)], _CANDIDATE)
        array = _token_data_array(single)
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(array.data[0].logit > -np.inf)


def check_grammar(model: LlamaModel, grammar: str, *, param: str) -> None:
    """Refuses a GBNF grammar that llama.cpp can't parse."""
    try:
        llama_cpp.llama_sampler_free(_grammar(model, grammar))
    except ValueError as error:
        raise InvalidRequest(str(error), param=param) from error


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


def _chain(model: LlamaModel, options: SamplingOptions) -> _Handle:
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    for sampler in _samplers(model, options):
        llama_cpp.llama_sampler_chain_add(chain, sampler)
    return chain


def _samplers(model: LlamaModel, options: SamplingOptions) -> list[_Handle]:
    samplers = []
    if options.logit_bias:
        entries = [llama_cpp.llama_logit_bias(token, bias) for token, bias in options.logit_bias.items()]
        biases = (llama_cpp.llama_logit_bias * len(entries))(*entries)
        samplers.append(llama_cpp.llama_sampler_init_logit_bias(model.vocab_size, len(biases), biases))
    samplers.append(
        llama_cpp.llama_sampler_init_penalties(
            model.vocab_size, _PENALTY_WINDOW, options.repeat_penalty,
            options.frequency_penalty, options.presence_penalty,
        )
    )  # fmt: skip
    if options.temperature == 0:
        return [*samplers, llama_cpp.llama_sampler_init_greedy()]
    if options.top_k:
        samplers.append(llama_cpp.llama_sampler_init_top_k(options.top_k))
    if options.top_p < 1:
        samplers.append(llama_cpp.llama_sampler_init_top_p(options.top_p, 1))
    if options.min_p > 0:
        samplers.append(llama_cpp.llama_sampler_init_min_p(options.min_p, 1))
    samplers.append(llama_cpp.llama_sampler_init_temp(options.temperature))
    seed = _RANDOM_SEED if options.seed is None else options.seed
    return [*samplers, llama_cpp.llama_sampler_init_dist(seed)]


def draw_seed(seed: int, position: int, *, is_second: bool) -> int:
    """The seed of one draw, from a request's seed and the tokens it has.

    With it the choice at a position does not depend on how many draws this process made before: an answer that goes on
    in another process, or is drawn again under a grammar, continues as it would have without.
    """
    drawn = sha256(f"{seed},{position},{is_second:d}".encode()).digest()
    return int.from_bytes(drawn[:4], "little") % _RANDOM_SEED


def _reseed(chain: _Handle, seed: int) -> None:
    last = llama_cpp.llama_sampler_chain_n(chain) - 1
    llama_cpp.llama_sampler_free(llama_cpp.llama_sampler_chain_remove(chain, last))
    llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_dist(seed))


def _grammar(model: LlamaModel, grammar: str) -> _Handle:
    sampler = llama_cpp.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
    if not sampler:
        raise ValueError("the grammar can't be parsed: it must be GBNF with a rule named `root`")
    return sampler


def _token_data_array(candidates: "np.ndarray[tuple[int], np.dtype[np.void]]") -> Any:
    data = ctypes.cast(candidates.ctypes.data, llama_cpp.llama_token_data_p)
    return llama_cpp.llama_token_data_array(data, len(candidates), -1, False)


def _text(piece: bytes) -> str:
    return piece.decode(errors="replace")
