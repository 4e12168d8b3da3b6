"""Guessing in the engine: answers stay what they are without it, and cells of wrong guesses are given back."""

import threading
import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.answer import Answer
from services.worker.compute_lock import NoComputeLock
from services.worker.speculation import SpeculationOptions
from services.worker.speculation.draft_model import DraftModel
from tests.unit.services.worker.fake_llama import VOCABULARY, FakeContext
from tests.unit.services.worker.test_engine import Request, running_engine

LOOKUP = SpeculationOptions("lookup", 8)
DRAFT = SpeculationOptions("draft", 4)
PROMPT = [*range(1, 60), 99, 1, 2, 3]


class CopyingContext(FakeContext):
    """Copies its prompt in a circle, but now and then says something else."""

    def __init__(self, *, mistake_every: int = 11, **options: Any) -> None:
        super().__init__(**options)
        self._mistake_every = mistake_every
        self.next_token = self.copied

    def copied(self, tokens: Sequence[int]) -> int:
        if len(tokens) % self._mistake_every == 0:
            return 100 + len(tokens) % 20
        return 1 + tokens[-1] % 59

    def says(self, prompt: Sequence[int], count: int) -> list[int]:
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(self.copied(tokens))
        return tokens[len(prompt) :]


@pytest.fixture(autouse=True)
def _steps_cost_the_same_whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.worker.cost.StepCost.seconds_of", lambda _self, count, *_: 1 + 0.001 * count)


def test_the_answer_is_the_same_and_takes_fewer_steps() -> None:
    with running_engine(CopyingContext()) as (engine, context, _):
        request = Request(PROMPT, 100, speculation_options=LOOKUP)
        engine.submit(request.generation)
        finish = request.wait()
        assert request.generated == cast("CopyingContext", context).says(PROMPT, 100)
        assert len(context.steps) < 60
    assert finish.usage.completion_token_count == 100
    assert finish.usage.accepted_draft_token_count > 40
    assert finish.usage.rejected_draft_token_count > 0
    assert engine.guesses.accepted["lookup"] == finish.usage.accepted_draft_token_count


def test_several_streams_are_verified_in_one_step() -> None:
    with running_engine(CopyingContext(seconds_per_step=0.001)) as (engine, context, _):
        requests = [Request([*PROMPT, n], 80, speculation_options=LOOKUP) for n in range(4, 8)]
        for request in requests:
            engine.submit(request.generation)
        for request in requests:
            request.wait()
        for request in requests:
            assert request.generated == cast("CopyingContext", context).says(request.prompt, 80)
        assert any(sum(count > 1 for _, count in step) > 1 and len(step) > 2 for step in context.steps)


def test_cells_of_wrong_guesses_are_given_back() -> None:
    with running_engine(CopyingContext(mistake_every=6)) as (engine, context, pool):
        request = Request(PROMPT, 50, speculation_options=LOOKUP)
        engine.submit(request.generation)
        finish = request.wait()
        _until(lambda: pool.parked_count == 1)
        assert finish.usage.rejected_draft_token_count > 0
        computed = len(PROMPT) + 49
        assert pool.used_cells == computed
        assert [len(tokens) for tokens in context.sequences.values()] == [computed]


@pytest.mark.parametrize("count", range(1, 12))
def test_a_limit_ends_the_answer_in_the_middle_of_a_draft(count: int) -> None:
    with running_engine(CopyingContext()) as (engine, context, _):
        request = Request(PROMPT, count, speculation_options=LOOKUP)
        engine.submit(request.generation)
        finish = request.wait()
        assert request.generated == cast("CopyingContext", context).says(PROMPT, count)
    assert (finish.reason, finish.usage.completion_token_count) == (pb.FINISH_REASON_LENGTH, count)


def test_a_stop_text_ends_the_answer_in_the_middle_of_a_draft() -> None:
    with running_engine(CopyingContext(mistake_every=1000)) as (engine, _, pool):
        request = Request(PROMPT, 100, speculation_options=LOOKUP, make_answer=lambda: Answer(stop=[" 31 "]))
        engine.submit(request.generation)
        finish = request.wait()
        _until(lambda: pool.parked_count == 1)
        assert request.generated == list(range(4, 32))
        assert pool.used_cells == len(PROMPT) + 27
    assert (finish.reason, finish.stop_sequence) == (pb.FINISH_REASON_STOP, " 31 ")


def test_with_too_few_cells_streams_with_guesses_still_say_the_right_text() -> None:
    with running_engine(CopyingContext(cells=300), cells=300, parked=4) as (engine, context, pool):
        requests = [Request([*PROMPT, n % 50], 60, speculation_options=LOOKUP) for n in range(8)]
        for request in requests:
            engine.submit(request.generation)
        for request in requests:
            request.wait()
        assert [r.generated for r in requests] == [cast("CopyingContext", context).says(r.prompt, 60) for r in requests]
        _until(lambda: engine.load().running_count == 0)
        pool.drop_parked()
        assert pool.used_cells == 0
        assert not context.sequences


def test_cancelling_a_stream_with_guesses_leaves_only_confirmed_cells() -> None:
    with running_engine(CopyingContext(seconds_per_step=0.002)) as (engine, context, pool):
        request = Request(PROMPT, 5000, speculation_options=LOOKUP)
        engine.submit(request.generation)
        request.next()
        engine.cancel(request.generation)
        _until(lambda: pool.parked_count == 1)
        assert pool.used_cells == request.generation.computed_count
        assert [len(tokens) for tokens in context.sequences.values()] == [request.generation.computed_count]


def test_a_request_may_turn_guessing_off() -> None:
    with running_engine(CopyingContext()) as (engine, context, _):
        request = Request(PROMPT, 30)
        engine.submit(request.generation)
        finish = request.wait()
        assert all(count == 1 for step in context.steps[3:] for _, count in step)
    assert finish.usage.accepted_draft_token_count == finish.usage.rejected_draft_token_count == 0


def draft_model(context: FakeContext, *, cells: int = 10_000) -> DraftModel:
    model = DraftModel(
        cast("Any", context), NoComputeLock(), sequences=4, cells=cells, batch_tokens=64, vocab_size=VOCABULARY
    )
    cast("Any", model.cost).seconds_of = lambda token_count, _outputs, _pairs: 0.01 + 0.0001 * token_count
    return model


@pytest.mark.parametrize("mistake_every", [11, 3])
def test_what_a_draft_model_guesses_is_confirmed_by_the_target(mistake_every: int) -> None:
    small = draft_model(CopyingContext(mistake_every=mistake_every, cells=10_000))
    with running_engine(CopyingContext(), draft=small) as (engine, context, _):
        requests = [Request([*PROMPT, n], 200, speculation_options=DRAFT) for n in range(4, 8)]
        for request in requests:
            engine.submit(request.generation)
        finishes = [request.wait() for request in requests]
        for request in requests:
            assert request.generated == cast("CopyingContext", context).says(request.prompt, 200)
    assert all(finish.usage.accepted_draft_token_count > 20 for finish in finishes)
    assert engine.guesses.drafted["draft"] >= engine.guesses.accepted["draft"] > 80


def test_a_draft_model_without_room_guesses_nothing() -> None:
    small = draft_model(CopyingContext(), cells=70)
    with running_engine(CopyingContext(), draft=small) as (engine, context, _):
        request = Request(PROMPT, 100, speculation_options=DRAFT)
        engine.submit(request.generation)
        request.wait()
        assert request.generated == cast("CopyingContext", context).says(PROMPT, 100)


def test_a_draft_model_that_does_not_return_makes_the_engine_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.worker.cost._SHORTEST_HANG_SECONDS", 0.01)
    monkeypatch.setattr("services.worker.cost._PATIENCE", 0.01)
    context = CopyingContext()
    with running_engine(CopyingContext(), draft=draft_model(context)) as (engine, _, _):
        context.gate = threading.Event()
        request = Request(PROMPT, 20, speculation_options=DRAFT)
        engine.submit(request.generation)
        _until(lambda: engine.is_hung)
        context.gate.set()
        request.wait()
        assert not engine.is_hung


class Weighing:
    """A sampler at temperature 1 with a seed."""

    def __init__(self, seed: int) -> None:
        self._chance = np.random.default_rng(seed)

    def sample(self, logits: NDArray[np.float32]) -> int:
        weights = np.exp(logits - logits.max())
        return int(self._chance.choice(len(logits), p=weights / weights.sum()))

    def close(self) -> None:
        pass


class DoubtfulContext(CopyingContext):
    """Mostly copies; every token has some other chance too."""

    def logits_after(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        logits = np.full(VOCABULARY, -12.0, np.float32)
        logits[self.copied(tokens)] = 2.0
        logits[1 + (tokens[-1] + 7) % 59] = 0.5
        return logits


def test_at_temperature_1_a_seed_says_the_same_with_and_without_guesses() -> None:
    said = []
    for options in (SpeculationOptions(), LOOKUP):
        with running_engine(DoubtfulContext(mistake_every=1000)) as (engine, _, _):
            requests = [Request(PROMPT, 60, speculation_options=options) for _ in range(20)]
            for seed, request in enumerate(requests):
                request.generation.sampler = cast("Any", Weighing(seed))
                engine.submit(request.generation)
            for request in requests:
                request.wait()
            said.append([request.generated for request in requests])
    assert said[0] == said[1]
    assert engine.guesses.accepted["lookup"] > 0


def test_at_temperature_1_the_distribution_is_that_of_the_target() -> None:
    counts = {"plain": 0, "other": 0}
    with running_engine(DoubtfulContext(mistake_every=1000)) as (engine, _, _):
        for seed in range(60):
            request = Request(PROMPT, 60, speculation_options=LOOKUP)
            request.generation.sampler = cast("Any", Weighing(1000 + seed))
            engine.submit(request.generation)
            request.wait()
            for before, token in zip([PROMPT[-1], *request.generated], request.generated, strict=False):
                counts["plain"] += token == 1 + before % 59
                counts["other"] += token == 1 + (before + 7) % 59
    share = counts["other"] / sum(counts.values())
    expected = np.exp(0.5) / (np.exp(0.5) + np.exp(2.0))
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 3600) ** 0.5


def _until(condition: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
