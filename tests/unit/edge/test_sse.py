import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
import pytest

from edge.answer import Answer, Event
from edge.generation import Generation
from edge.sse import (
    DONE,
    ClientDisconnected,
    stream_frames,
    take_all,
    take_until_admitted,
    unless_disconnected,
)
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import BackendFailed, ContextLengthExceeded, NoWorker
from tests.fakes.inference import admitted, content, finish, progress, spoken
from tests.fakes.rpc import rpc_error

Step = pb.GenerateResponse | float | Exception


class ScriptedCall:
    """Plays steps like a gRPC call: sleeps for numbers, raises exceptions."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self.is_cancelled = False
        self.has_ended = False

    def cancel(self) -> bool:
        self.is_cancelled = True
        return True

    async def __aiter__(self) -> AsyncIterator[pb.GenerateResponse]:
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, pb.GenerateResponse):
                yield step
            else:
                await asyncio.sleep(step)
        self.has_ended = True


class NoObserver:
    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.event_count = 0

    def saw(self, events: list[Event]) -> None:
        self.event_count += len(events)

    def failed(self, error: Exception) -> None:
        self.failure = error


def generation_of(*scripts: Sequence[Step]) -> Generation:
    calls = iter([ScriptedCall(script) for script in scripts])
    return Generation(lambda _request: next(calls), [pb.GenerateRequest()] * len(scripts))  # type: ignore[arg-type, return-value]


async def frames_of(
    *scripts: Sequence[Step], with_usage: bool = False, first_headers_seconds: float = 5.0, observer: Any = None
) -> list[bytes]:
    generation, answer = generation_of(*scripts), Answer("chatcmpl-1", created=1, choice_count=len(scripts))
    observer = observer or NoObserver()
    try:
        first = await take_until_admitted(generation, answer, observer, first_headers_seconds)
        stream = stream_frames(generation, answer, observer, first, with_usage=with_usage, keep_alive_seconds=0.05)
        data = b"".join([piece async for piece in stream])
    finally:
        await generation.aclose()
    assert data.endswith(b"\n\n")
    return [part + b"\n\n" for part in data.split(b"\n\n")[:-1]]


def chunks(frames: list[bytes]) -> list[dict[str, Any]]:
    return [orjson.loads(frame[6:]) for frame in frames if frame.startswith(b"data: {")]


async def test_a_stream_is_role_text_finish_and_the_end_mark() -> None:
    frames = await frames_of(spoken("a"))
    assert [chunk["choices"][0]["delta"] for chunk in chunks(frames)] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {},
    ]
    assert chunks(frames)[-1]["choices"][0]["finish_reason"] == "stop"
    assert frames[-1] == DONE


async def test_usage_comes_between_finish_and_end_mark() -> None:
    frames = await frames_of(spoken("a"), with_usage=True)
    assert orjson.loads(frames[-2][6:])["choices"] == []
    assert orjson.loads(frames[-2][6:])["usage"]["total_tokens"] == 13
    assert frames[-1] == DONE


async def test_each_choice_has_one_role_and_one_finish() -> None:
    frames = await frames_of(spoken("a"), spoken("b", "c"))
    for index in (0, 1):
        own = [chunk["choices"][0] for chunk in chunks(frames) if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == ["stop"]
        assert own[-1]["finish_reason"] == "stop"
    assert frames.count(DONE) == 1


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (progress(pb.PHASE_QUEUED, queue_position=3), b": queued, 3 before this request\n\n"),
        (progress(pb.PHASE_LOADING), b": loading the model\n\n"),
        (progress(pb.PHASE_LOADING, model="x"), b": loading model x\n\n"),
        (progress(pb.PHASE_LOADING, model="x", loading_seconds=3.2), b": loading model x 3 s\n\n"),
        (
            progress(pb.PHASE_LOADING, model="x", loading_seconds=4.8, expected_loading_seconds=12),
            b": loading model x 40%\n\n",
        ),
        (
            progress(pb.PHASE_LOADING, model="x", loading_seconds=30, expected_loading_seconds=12),
            b": loading model x 99%\n\n",
        ),
        (progress(pb.PHASE_MEMORY, model="x\n\ny"), b": waiting for memory to load model x y into\n\n"),
        (
            progress(pb.PHASE_PREFILL, processed_token_count=512, total_token_count=7210),
            b": reading the prompt, 512 of 7210 tokens\n\n",
        ),
    ],
)
async def test_silence_is_filled_with_what_is_going_on(event: pb.GenerateResponse, expected: bytes) -> None:
    frames = await frames_of([admitted(), event, 0.12, content("a"), finish()])
    assert frames[0].startswith(b"data: ")
    assert expected in frames
    assert frames[-1] == DONE


async def test_frequent_progress_does_not_put_the_comment_off() -> None:
    steps: list[Step] = [admitted()]
    for count in range(12):
        steps += [progress(pb.PHASE_PREFILL, processed_token_count=count, total_token_count=12), 0.02]
    frames = await frames_of([*steps, finish()])
    assert 2 <= sum(frame.startswith(b":") for frame in frames) <= 6


async def test_a_stream_that_flows_has_no_comments() -> None:
    frames = await frames_of([admitted(), *[step for _ in range(10) for step in (0.02, content("a"))], finish()])
    assert not any(frame.startswith(b":") for frame in frames)


async def test_silence_in_the_middle_of_an_answer_is_filled_too() -> None:
    frames = await frames_of([admitted(), content("a"), 0.12, content("b"), finish()])
    assert b": keep-alive\n\n" in frames


@pytest.mark.parametrize("steps", [[admitted(), content("a")], [admitted()]])
async def test_a_stream_without_finish_is_an_error(steps: list[Step]) -> None:
    frames = await frames_of(steps)
    assert chunks(frames)[-1]["error"]["type"] == "server_error"
    assert DONE not in frames
    assert not any(chunk["choices"][0]["finish_reason"] for chunk in chunks(frames)[:-1])


async def test_what_was_said_before_a_failure_is_delivered() -> None:
    observer = NoObserver()
    error = BackendFailed("broken")
    frames = await frames_of([admitted(), content("a"), rpc_error(error)], observer=observer)
    assert chunks(frames)[1]["choices"][0]["delta"] == {"content": "a"}
    assert chunks(frames)[-1] == {
        "error": {"message": "broken", "type": "server_error", "param": None, "code": "server_error"}
    }
    assert observer.failure is not None


async def test_a_defect_of_the_edge_ends_a_stream_with_an_error() -> None:
    class Broken(NoObserver):
        def saw(self, events: list[Event]) -> None:
            if any(event.HasField("delta") for _, event in events):
                raise ValueError("secret")

    frames = await frames_of([admitted(), 0.01, content("a"), finish()], observer=Broken())
    assert chunks(frames)[-1]["error"]["type"] == "server_error"
    assert b"secret" not in b"".join(frames)
    assert DONE not in frames


async def test_an_unreadable_answer_is_an_error_and_no_hang() -> None:
    frames = await frames_of([admitted(), content("a"), ValueError("secret")])
    assert chunks(frames)[-1]["error"]["type"] == "server_error"
    assert b"secret" not in b"".join(frames)


async def test_a_refusal_before_admission_is_raised() -> None:
    generation = generation_of([rpc_error(NoWorker("none"))])
    with pytest.raises(Exception, match="none"):
        await take_until_admitted(generation, Answer("c", created=1), NoObserver(), 5.0)
    await generation.aclose()


async def test_one_refused_choice_refuses_all() -> None:
    generation = generation_of(spoken("a"), [rpc_error(NoWorker("none"))])
    with pytest.raises(Exception, match="none"):
        await take_until_admitted(generation, Answer("c", created=1, choice_count=2), NoObserver(), 5.0)
    await generation.aclose()


async def test_a_late_admission_starts_with_a_comment() -> None:
    frames = await frames_of([0.1, *spoken("a")], first_headers_seconds=0.02)
    assert frames[0] == b": waiting for the model\n\n"
    assert chunks(frames)[0]["choices"][0]["delta"]["role"] == "assistant"
    assert frames[-1] == DONE


async def test_a_late_overflow_is_in_the_form_that_clients_compact_on() -> None:
    frames = await frames_of([0.1, rpc_error(ContextLengthExceeded.of(9, 5))], first_headers_seconds=0.02)
    inner = orjson.loads(chunks(frames)[-1]["error"]["message"])
    assert inner["error"]["code"] == "context_length_exceeded"
    assert DONE not in frames


async def test_an_error_behind_the_finish_changes_nothing() -> None:
    frames = await frames_of([*spoken("a"), rpc_error(BackendFailed("late"))])
    assert frames[-1] == DONE


async def test_a_slow_reader_slows_its_answer_down() -> None:
    generation = generation_of([admitted(), *[content("x")] * 2000, finish()])
    await asyncio.sleep(0.05)
    assert len(await generation.next_events()) <= 257
    answer, observer = Answer("c", created=1), NoObserver()
    await take_all(generation, answer, observer)
    assert answer.is_finished
    await generation.aclose()


async def test_closing_cancels_every_call() -> None:
    calls = [ScriptedCall([admitted(), 60.0]) for _ in range(2)]
    pending = iter(calls)
    generation = Generation(lambda _request: next(pending), [pb.GenerateRequest()] * 2)  # type: ignore[arg-type, return-value]
    await generation.next_events()
    await generation.aclose()
    assert all(call.is_cancelled for call in calls)


async def test_a_finished_call_may_end_by_itself() -> None:
    call = ScriptedCall([*spoken("a"), 0.05])
    generation = Generation(lambda _request: call, [pb.GenerateRequest()])  # type: ignore[arg-type, return-value]
    await take_all(generation, Answer("c", created=1), NoObserver())
    await generation.aclose()
    assert call.has_ended


async def test_work_stops_when_the_client_is_gone() -> None:
    was_cancelled = False

    async def work() -> None:
        nonlocal was_cancelled
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            was_cancelled = True
            raise

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnected):
        await unless_disconnected(receive, work())
    assert was_cancelled


async def test_work_is_done_for_a_client_that_stays() -> None:
    async def work() -> int:
        return 7

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    assert await unless_disconnected(receive, work()) == 7
