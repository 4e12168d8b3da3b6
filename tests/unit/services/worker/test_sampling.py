"""Chains of llama.cpp's samplers that need no model, over a vocabulary large enough that only a part is handed over."""

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.worker.candidates import Candidates
from services.worker.sampling import Sampler
from services.worker.sampling_options import SamplingOptions

VOCABULARY = 20_000
END = 0


class BareModel:
    vocab_size = VOCABULARY
    vocab = None
    end_tokens = frozenset({END})


class AllCandidates(Candidates):
    """Hands the whole vocabulary over, always."""

    def take_likeliest(self, *_: Any, **__: Any) -> bool:
        return False


def sampler(candidates: Candidates | None = None, **options: Any) -> Sampler:
    return Sampler(cast("Any", BareModel()), SamplingOptions(**{"temperature": 1.0, "seed": 5, **options}), candidates)


def logits_with(peaks: dict[int, float], seed: int = 0) -> NDArray[np.float32]:
    logits = np.random.default_rng(seed).normal(0, 1, VOCABULARY).astype(np.float32)
    for token, value in peaks.items():
        logits[token] = value
    return logits


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 500), others=st.lists(st.integers(0, VOCABULARY - 1)))
def test_the_likeliest_and_all_others_asked_for_are_taken(seed: int, count: int, others: list[int]) -> None:
    candidates = Candidates(VOCABULARY)
    logits = np.random.default_rng(seed).normal(0, 3, VOCABULARY).astype(np.float32)
    assert candidates.take_likeliest(logits, count, others)
    taken = candidates.tokens()
    assert set(np.argsort(-logits)[:count]) | set(others) <= set(taken)
    assert len(set(taken)) == len(taken)


def test_equal_logits_lose_nobody() -> None:
    candidates = Candidates(VOCABULARY)
    assert candidates.take_likeliest(np.zeros(VOCABULARY, np.float32), 5)
    assert len(candidates.tokens()) == VOCABULARY


CHAINS: list[dict[str, Any]] = [
    {"temperature": 0.7, "top_p": 0.8, "top_k": 20},
    {"top_k": 8, "repeat_penalty": 1.3, "repeat_last_n": 20},
    {"top_k": 8, "frequency_penalty": 1.5, "presence_penalty": -0.5, "logit_bias": {7: 20.0, 9: -100.0}},
    {"temperature": 0, "frequency_penalty": 1.0, "logit_bias": {100: 3.0}},
    {"top_k": 4, "min_p": 0.1, "xtc_probability": 0.5},
    {"min_p": 0.05, "temperature": 0.8},
    {"min_p": 1.0, "top_k": 0},
    {"temperature": 0, "repeat_penalty": 0.8, "repeat_last_n": 3},
    {"temperature": 0, "logit_bias": {100: 20.0}},
    {"temperature": 0, "presence_penalty": -12.0, "repeat_last_n": 1},
]


@pytest.mark.parametrize("options", CHAINS)
def test_a_part_of_the_vocabulary_gives_the_same_tokens_as_all_of_it(options: dict[str, Any]) -> None:
    fast, slow = sampler(**options), sampler(AllCandidates(VOCABULARY), **options)
    slow._only_lowers = False
    for one in (fast, slow):
        one.read_prompt([1, 2, 3, 4] * 5)
    steps = [logits_with({1: 9.0, 2: 8.5, 3: 8.0, 50: 7.5, 60: 7.2}, seed) for seed in range(60)]
    assert [fast.sample(logits) for logits in steps] == [slow.sample(logits) for logits in steps]


GREEDY: list[dict[str, Any]] = [
    {"logit_bias": {1: -100.0, 3: -0.2}},
    {"repeat_penalty": 1.3, "repeat_last_n": 2, "logit_bias": {1: -100.0}},
    {"presence_penalty": 0.3, "frequency_penalty": 0.1, "repeat_last_n": 4},
    {"dry_multiplier": 2.0, "dry_sequence_breakers": []},
]


@pytest.mark.parametrize("options", GREEDY)
def test_the_likeliest_token_is_taken_without_the_chain_only_where_the_chain_would_take_it(
    options: dict[str, Any],
) -> None:
    raised = {VOCABULARY - 1: 1e-6, **options.get("logit_bias", {})}  # so that the chain must be asked
    short = sampler(**{"temperature": 0, **options})
    asked = sampler(**{"temperature": 0, **options, "logit_bias": raised})
    steps = [logits_with({1: 9.0, 2: 8.5, 3: 8.4, 50: 8.3, 60: 8.2}, seed) for seed in range(60)]
    chosen = [short.sample(logits) for logits in steps]
    assert chosen == [asked.sample(logits) for logits in steps]
    assert len(set(chosen)) > 1 or "repeat_last_n" not in options


def frequencies(options: dict[str, Any], logits: NDArray[np.float32], count: int = 6000) -> dict[int, float]:
    one = sampler(**options)
    drawn = np.bincount([one.sample(logits) for _ in range(count)], minlength=VOCABULARY)
    return {int(token): drawn[token] / count for token in np.flatnonzero(drawn)}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_distribution(temperature: float) -> None:
    peaks = {11: 9.0, 22: 8.0, 33: 7.5, 44: 6.5}
    weights = np.exp(np.array(list(peaks.values())) / temperature)
    expected = dict(zip(peaks, weights / weights.sum(), strict=True))
    found = frequencies({"temperature": temperature, "top_k": 4}, logits_with(peaks))
    assert set(found) <= set(expected)
    for token, probability in expected.items():
        assert found.get(token, 0) == pytest.approx(probability, abs=4 * (probability / 6000) ** 0.5)


def test_without_a_cut_the_whole_vocabulary_can_be_drawn() -> None:
    found = frequencies({"temperature": 1.0}, np.zeros(VOCABULARY, np.float32), 500)
    assert len(found) > 450


def test_a_bias_shifts_the_odds_by_its_exponential() -> None:
    logits = logits_with({11: 8.0, 22: 8.0})
    found = frequencies({"top_k": 2, "logit_bias": {22: float(np.log(3))}}, logits)
    assert found[22] / found[11] == pytest.approx(3, rel=0.15)


def test_a_forbidden_token_is_never_drawn() -> None:
    assert 11 not in frequencies({"top_k": 2, "logit_bias": {11: -np.inf}}, logits_with({11: 30.0, 22: 8.0}), 50)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_must_not_come_first_may_come_later(temperature: float) -> None:
    options = SamplingOptions(temperature=temperature, seed=5)
    chooser = Sampler(cast("Any", BareModel()), options, forbidden_first=frozenset({7}))
    logits = logits_with({7: 50.0, 9: 30.0})
    assert [chooser.sample(logits) for _ in range(2)] == [9, 7]
    assert logits[7] == 50.0


def test_penalties_count_the_prompts_last_tokens_and_forget_old_ones() -> None:
    one = sampler(temperature=0, presence_penalty=2.0, repeat_last_n=3)
    one.read_prompt([11, 5, 6])
    logits = logits_with({11: 9.0, 22: 8.0})
    assert [one.sample(logits) for _ in range(3)] == [22, 11, 11]


@pytest.mark.parametrize("options", [*CHAINS, {}, {"mirostat": 2}, {"mirostat": 1}, {"adaptive_target": 0.3},
                                     {"top_n_sigma": 1.0}, {"typical_p": 0.5}, {"dynatemp_range": 0.5}])  # fmt: skip
def test_a_seed_reproduces_and_another_one_differs(options: dict[str, Any]) -> None:
    def drawn(seed: int) -> list[int]:
        one = sampler(**options, seed=seed)
        return [one.sample(logits_with({1: 5.0, 2: 5.0, 3: 5.0}, step)) for step in range(30)]

    assert drawn(1) == drawn(1)
    if options.get("temperature") != 0:
        assert drawn(1) != drawn(2)


def test_samplers_may_share_their_memory() -> None:
    shared = Candidates(VOCABULARY)
    logits = logits_with({1: 5.0, 2: 5.0})
    alone = [sampler(top_k=5, seed=seed).sample(logits) for seed in range(5)]
    assert [sampler(shared, top_k=5, seed=seed).sample(logits) for seed in range(5)] == alone
