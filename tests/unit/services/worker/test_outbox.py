import math
from typing import Any, cast

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.generation import Event, Generation
from services.worker.outbox import Outbox, StreamInterval


class Stream:
    """As much of a generation as an outbox looks at."""

    def __init__(self) -> None:
        self.is_running = True
        self.posted_at = -math.inf


LEFT, RIGHT = cast("Any", Stream()), cast("Any", Stream())
FINISH = pb.GenerateResponse(finish=pb.Finish(reason=pb.FINISH_REASON_STOP))


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
    outbox.add_deltas(LEFT, [delta("a", 1)])
    outbox.add_deltas(LEFT, [pb.Delta(reasoning="hm")])
    outbox.add(LEFT, FINISH)
    outbox.flush()
    kinds = [cast("pb.GenerateResponse", event).WhichOneof("event") for _, event in posted.batches[0]]
    assert kinds == ["delta", "delta", "finish"]


def test_nothing_said_posts_nothing(outbox: Outbox, posted: Posted) -> None:
    outbox.flush()
    assert posted.batches == []


def test_streams_that_take_turns_get_one_delta_each(outbox: Outbox, posted: Posted) -> None:
    for token in range(2):
        outbox.add_deltas(LEFT, [delta("l", token)])
        outbox.add_deltas(RIGHT, [delta("r", token)])
    outbox.flush()
    assert posted.deltas == [("ll", [0, 1]), ("rr", [0, 1])]


class TestWithinTheInterval:
    @pytest.fixture
    def stream(self) -> Any:
        return Stream()

    @pytest.fixture
    def patient(self, posted: Posted, stream: Any) -> Outbox:
        """One that has just posted the first token of a stream."""
        outbox = Outbox(posted.batches.append, StreamInterval(60.0))
        outbox.add_deltas(stream, [delta("first ", 1)])
        outbox.flush(may_wait=True)
        return outbox

    def test_the_first_token_does_not_wait(self, patient: Outbox, posted: Posted) -> None:
        assert posted.deltas == [("first ", [1])]

    def test_what_was_said_waits_until_the_interval_is_over(self, patient: Outbox, posted: Posted, stream: Any) -> None:
        for token in (2, 3):
            patient.add_deltas(stream, [delta(f"{token} ", token)])
            patient.flush(may_wait=True)
        assert len(posted.batches) == 1
        stream.posted_at -= 60.0
        patient.flush(may_wait=True)
        assert posted.deltas[1:] == [("2 3 ", [2, 3])]

    def test_among_many_streams_each_waits_longer(self, posted: Posted, stream: Any) -> None:
        outbox = Outbox(posted.batches.append, StreamInterval(60.0, longest_seconds=150.0))
        outbox.add_deltas(stream, [delta("first", 1)])
        outbox.flush(may_wait=True, stream_count=4)
        stream.posted_at -= 100.0
        outbox.add_deltas(stream, [delta("2", 2)])
        outbox.flush(may_wait=True, stream_count=4)
        assert posted.deltas[1:] == []
        outbox.flush(may_wait=True, stream_count=2)
        assert posted.deltas[1:] == [("2", [2])]

    def test_nothing_waits_for_a_long_step(self, patient: Outbox, posted: Posted, stream: Any) -> None:
        patient.add_deltas(stream, [delta("2", 2)])
        patient.flush()
        assert posted.deltas[1:] == [("2", [2])]

    def test_an_end_takes_along_what_waits(self, patient: Outbox, posted: Posted, stream: Any) -> None:
        patient.add_deltas(stream, [delta("2", 2)])
        patient.flush(may_wait=True)
        patient.add(stream, FINISH)
        patient.flush(may_wait=True)
        assert [cast("Any", event).WhichOneof("event") for _, event in posted.batches[1]] == ["delta", "finish"]

    def test_what_a_stream_said_before_it_lost_its_slot_does_not_wait(
        self, patient: Outbox, posted: Posted, stream: Any
    ) -> None:
        stream.is_running = False
        patient.add_deltas(stream, [delta("2", 2)])
        patient.flush(may_wait=True)
        assert posted.deltas[1:] == [("2", [2])]

    def test_a_stream_that_waits_holds_up_no_other(self, patient: Outbox, posted: Posted, stream: Any) -> None:
        patient.add_deltas(stream, [delta("2", 2)])
        patient.add_deltas(cast("Any", Stream()), [delta("other", 1)])
        patient.flush(may_wait=True)
        assert posted.deltas[1:] == [("other", [1])]

    def test_what_has_waited_for_half_of_it_goes_out_with_what_another_stream_says(
        self, patient: Outbox, posted: Posted, stream: Any
    ) -> None:
        stream.posted_at -= 31.0
        patient.add_deltas(stream, [delta("2", 2)])
        patient.flush(may_wait=True)
        assert posted.deltas[1:] == []
        patient.add_deltas(cast("Any", Stream()), [delta("other", 1)])
        patient.flush(may_wait=True)
        assert len(posted.batches) == 2
        assert posted.deltas[1:] == [("2", [2]), ("other", [1])]

    def test_progress_does_not_make_a_first_token_wait(self, posted: Posted, stream: Any) -> None:
        outbox = Outbox(posted.batches.append, StreamInterval(60.0))
        outbox.add(stream, pb.GenerateResponse(progress=pb.Progress(phase=pb.PHASE_PREFILL)))
        outbox.flush(may_wait=True)
        outbox.add_deltas(stream, [delta("first", 1)])
        outbox.flush(may_wait=True)
        assert posted.deltas[-1] == ("first", [1])


@pytest.mark.parametrize(("stream_count", "seconds"), [(0, 0.1), (1, 0.1), (2, 0.1), (3, 0.15), (4, 0.2), (9, 0.25)])
def test_the_interval_grows_with_the_streams_up_to_the_longest(stream_count: int, seconds: float) -> None:
    assert StreamInterval(0.1, longest_seconds=0.25).among(stream_count) == pytest.approx(seconds)


def test_an_interval_that_was_set_by_hand_stays() -> None:
    assert StreamInterval(0.1).among(8) == 0.1
