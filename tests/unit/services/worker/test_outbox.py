from typing import Any, cast

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.generation import Event, Generation
from services.worker.outbox import Outbox

LEFT, RIGHT = cast("Any", object()), cast("Any", object())


class Posted:
    def __init__(self) -> None:
        self.batches: list[list[tuple[Generation, Event]]] = []

    @property
    def deltas(self) -> list[tuple[str, list[int]]]:
        events = [event for batch in self.batches for _, event in batch if isinstance(event, pb.GenerateResponse)]
        return [(event.delta.content, list(event.delta.token_ids)) for event in events]


@pytest.fixture
def posted() -> Posted:
    return Posted()


@pytest.fixture
def outbox(posted: Posted) -> Outbox:
    return Outbox(posted.batches.append)


def delta(text: str, token: int, **fields: Any) -> pb.Delta:
    return pb.Delta(content=text, token_ids=[token], **fields)


def test_what_one_stream_says_in_a_step_is_one_delta(outbox: Outbox, posted: Posted) -> None:
    outbox.add_deltas(LEFT, [delta("one ", 1)])
    outbox.add_deltas(LEFT, [delta("two ", 2), delta("three", 3)])
    outbox.add_deltas(RIGHT, [delta("other", 4)])
    outbox.flush()
    assert posted.deltas == [("one two three", [1, 2, 3]), ("other", [4])]
    assert [generation for generation, _ in posted.batches[0]] == [LEFT, RIGHT]


def test_log_probabilities_of_joined_deltas_stay_together(outbox: Outbox, posted: Posted) -> None:
    outbox.add_deltas(LEFT, [delta("a", 1, logprobs=[pb.TokenLogprob(token="a")])])
    outbox.add_deltas(LEFT, [delta("b", 2, logprobs=[pb.TokenLogprob(token="b")])])
    outbox.flush()
    ((_, event),) = posted.batches[0]
    assert [entry.token for entry in cast("pb.GenerateResponse", event).delta.logprobs] == ["a", "b"]


def test_deltas_stay_in_order_with_other_events(outbox: Outbox, posted: Posted) -> None:
    finish = pb.GenerateResponse(finish=pb.Finish(reason=pb.FINISH_REASON_STOP))
    outbox.add_deltas(LEFT, [delta("a", 1)])
    outbox.add_deltas(LEFT, [pb.Delta(reasoning="hm")])
    outbox.add(LEFT, finish)
    outbox.flush()
    kinds = [cast("pb.GenerateResponse", event).WhichOneof("event") for _, event in posted.batches[0]]
    assert kinds == ["delta", "delta", "finish"]


def test_nothing_said_posts_nothing(outbox: Outbox, posted: Posted) -> None:
    outbox.flush()
    assert posted.batches == []
