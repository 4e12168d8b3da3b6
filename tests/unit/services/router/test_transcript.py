from localcode.inference.v1 import inference_pb2 as pb
from services.router.transcript import Transcript
from tests.fakes.inference import admitted, content, finish, progress, reasoning, tool_call


def events(*added: pb.GenerateResponse) -> list[pb.GenerateResponse]:
    transcript = Transcript()
    for event in added:
        transcript.add(event)
    return transcript.events


def test_neighbouring_pieces_of_one_kind_are_joined_with_their_tokens() -> None:
    joined = events(admitted(), content("a", token_ids=[1]), content("b", token_ids=[2]), finish())
    assert joined == [admitted(), content("ab", token_ids=[1, 2]), finish()]
    assert events(reasoning("a"), reasoning("b"), content("c")) == [reasoning("ab"), content("c")]


def test_calls_stay_apart() -> None:
    first = tool_call(0, "{", id="x", name="read")
    second = tool_call(1, "{}", id="y", name="read")
    assert events(first, tool_call(0, "}"), second) == [tool_call(0, "{}", id="x", name="read"), second]


def test_events_are_copied() -> None:
    piece = content("a")
    events(piece, content("b"))
    assert piece == content("a")


def test_progress_is_kept_while_it_is_the_latest() -> None:
    waiting = [progress(pb.PHASE_QUEUED, queue_position=position) for position in (2, 1)]
    assert events(*waiting) == waiting[1:]
    assert events(*waiting, content("a")) == [content("a")]


def test_long_texts_stay_in_pieces() -> None:
    kept = events(*[content("x" * 1000)] * 20)
    assert len(kept) == 4
    assert sum(len(event.delta.content) for event in kept) == 20_000


def test_what_was_replayed_does_not_change() -> None:
    transcript = Transcript()
    transcript.add(content("a"))
    replayed = transcript.replay()
    for text in "bcd":
        transcript.add(content(text))
    assert replayed == [content("a")]
    assert transcript.events == [content("a"), content("bcd")]
