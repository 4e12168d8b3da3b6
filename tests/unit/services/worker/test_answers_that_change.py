"""What a token leads to beside being said: the answer ends, is taken back, or goes on with a call."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.answer import Answer
from tests.unit.services.worker.fake_llama import END, FakeContext, FakeModel, FakeSampler
from tests.unit.services.worker.test_engine import Request, running_engine

NAME, WRONG, RIGHT, REST, LINE = 101, 102, 103, 104, 105
PIECES = {NAME: b'{"name": "', WRONG: b"git", RIGHT: b"read", REST: b'", "arguments": {', LINE: b"I call it.\n"}


class HeldSampler(FakeSampler):
    """Chooses the right name once it is held to it."""

    is_constrained = False

    def constrain(self, grammar: str, written: str) -> None:
        self.is_constrained = True

    def release(self) -> None:
        self.is_constrained = False

    def sample(self, logits: Any) -> int:
        token = super().sample(logits)
        return RIGHT if token == WRONG and self.is_constrained else token


class CallingAnswer(Answer):
    """Takes every object for a call of a tool, of which there is none but `read`."""

    def __init__(self) -> None:
        super().__init__()
        self._text = ""

    def feed(self, token_id: int, piece: bytes, logprob: pb.TokenLogprob | None = None) -> list[pb.Delta]:
        self._text += piece.decode()
        return super().feed(token_id, piece, logprob)

    @property
    def is_in_call(self) -> bool:
        return NAME in self._token_ids

    @property
    def misnamed_call(self) -> str:
        return self._text if "git" in self._text and "arguments" in self._text else ""


def saying(*answer: int) -> FakeContext:
    """A model that says this behind its prompt of three tokens, each at its place, then ends."""
    context = FakeContext()

    def next_token(tokens: Sequence[int]) -> int:
        said = len(tokens) - 3
        return answer[said] if said < len(answer) else END

    context.next_token = next_token
    return context


@pytest.fixture(autouse=True)
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeModel, "piece", staticmethod(lambda token: PIECES.get(token, b"%d " % token)))


def content(request: Request) -> str:
    """All that came for a request until its end."""
    text = ""
    while True:
        event = cast("pb.GenerateResponse", request.next())
        if event.HasField("finish"):
            return text
        text += event.delta.content


def test_a_stop_text_ends_the_answer_and_nothing_behind_it_is_said() -> None:
    with running_engine(saying(*range(20, 40))) as (engine, _, pool):
        request = Request([1, 2, 3], max_tokens=20, make_answer=lambda: Answer(stop=["24 "]))
        engine.submit(request.generation)
        assert content(request) == "20 21 22 23 "
        assert request.generated == [20, 21, 22, 23, 24]
        assert engine.call(lambda: pool.parked_count).result() == 1
        assert engine.load().running_count == 0


def test_an_answer_that_announces_a_call_goes_on_with_it() -> None:
    with running_engine(saying(20, LINE, 40, 41, 30, 31)) as (engine, _, _):
        request = Request(
            [1, 2, 3], max_tokens=20, open_announced_call=lambda text: [NAME, RIGHT] if text.endswith("\n") else []
        )
        engine.submit(request.generation)
        assert content(request) == '20 I call it.\n{"name": "read30 31 '


def test_an_answer_that_ends_with_an_announcement_goes_on_with_the_call() -> None:
    with running_engine(saying(20, END, END, 30)) as (engine, _, _):
        request = Request([1, 2, 3], max_tokens=20, open_announced_call=lambda _: [NAME, RIGHT])
        engine.submit(request.generation)
        assert content(request) == '20 {"name": "read30 '


def test_a_call_of_a_tool_that_was_not_offered_is_taken_back_to_its_name() -> None:
    with running_engine(saying(NAME, WRONG, REST, 30)) as (engine, context, pool):
        request = Request([1, 2, 3], max_tokens=20, make_answer=CallingAnswer, call_grammar="offered")
        request.generation.sampler = cast("Any", HeldSampler())
        engine.submit(request.generation)
        request.wait()
        assert request.generated == [NAME, RIGHT, REST, 30]
        kept = [1, 2, 3, *request.generated]
        assert engine.call(lambda: list(context.sequences.values())).result() == [kept]
        assert pool.used_cells == len(kept)
