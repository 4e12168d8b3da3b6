"""Server-sent events: what a stream consists of, and the response that carries it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edge.answer import Answer, Event, merge_adjacent
from edge.errors import api_error, error_chunk
from edge.generation import Generation
from localcode.inference.v1 import inference_pb2 as pb

DONE: Final = b"data: [DONE]\n\n"
_MOST_PERCENT: Final = 99  # what takes longer than last time is not done yet
_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}
T = TypeVar("T")


class ClientDisconnected(Exception):
    """Nobody waits for the answer any more."""


class Observer(Protocol):
    """Watches an answer for logs and metrics."""

    def saw(self, events: list[Event]) -> None:
        """Is told of events that the answer has taken in."""

    def failed(self, error: Exception) -> None:
        """Is told that the answer broke off."""


def frame(chunk: dict[str, Any]) -> bytes:
    """Packs one chunk."""
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def comment(answer: Answer) -> bytes:
    """Says what the answer is waiting for, in a line that clients skip."""
    progress = next((choice.progress for choice in answer.choices if choice.progress), None)
    return f": {_waiting_for(progress, is_admitted=answer.is_admitted)}\n\n".encode()


async def take_events(
    generation: Generation, answer: Answer, observer: Observer, timeout_seconds: float | None
) -> list[dict[str, Any]]:
    """Takes the next events into the answer and returns their chunks; none within the time is an empty list."""
    events = merge_adjacent(await generation.next_events(timeout_seconds))
    chunks = [chunk for index, event in events for chunk in answer.add(index, event)]
    observer.saw(events)
    return chunks


async def take_all(generation: Generation, answer: Answer, observer: Observer) -> None:
    """Takes events until every choice has ended."""
    while not answer.is_finished:
        await take_events(generation, answer, observer, None)


async def take_until_admitted(
    generation: Generation, answer: Answer, observer: Observer, timeout_seconds: float
) -> list[dict[str, Any]]:
    """Takes events until every choice is admitted or the time is over."""
    deadline = monotonic() + timeout_seconds
    chunks: list[dict[str, Any]] = []
    while not answer.is_admitted and (remaining := deadline - monotonic()) > 0:
        chunks += await take_events(generation, answer, observer, remaining)
    return chunks


async def stream_frames(
    generation: Generation,
    answer: Answer,
    observer: Observer,
    first_chunks: list[dict[str, Any]],
    *,
    with_usage: bool,
    keep_alive_seconds: float,
) -> AsyncIterator[bytes]:
    """Streams an answer: its chunks, comments in silence, then usage and the end mark, or one error and no mark."""
    try:
        yield b"".join(map(frame, first_chunks)) or comment(answer)
        deadline = monotonic() + keep_alive_seconds
        while not answer.is_finished:
            chunks = await take_events(generation, answer, observer, max(deadline - monotonic(), 0.0))
            if chunks or monotonic() >= deadline:
                yield b"".join(map(frame, chunks)) or comment(answer)
                deadline = monotonic() + keep_alive_seconds
        yield (frame(answer.usage_chunk()) if with_usage else b"") + DONE
    except Exception as error:
        observer.failed(error)
        yield frame(error_chunk(api_error(error)))


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Does the work, and cancels it as soon as the client is gone."""
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


class EventStream(Response):
    """A response of server-sent events that ends its source when it is done or its client gone."""

    media_type = "text/event-stream"

    def __init__(
        self, frames: AsyncIterator[bytes], close: Callable[[], Awaitable[None]], headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(headers={**_HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self._frames = frames
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream."""
        try:
            with suppress(ClientDisconnected):
                await unless_disconnected(receive, self._send_all(send))
        finally:
            await self._close()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for data in self._frames:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _waiting_for(progress: pb.Progress | None, *, is_admitted: bool) -> str:
    if progress is None:
        return "keep-alive" if is_admitted else "waiting for the model"
    match progress.phase:
        case pb.PHASE_QUEUED:
            return f"queued, {progress.queue_position} before this request"
        case pb.PHASE_LOADING:
            return _loading(progress)
        case pb.PHASE_MEMORY:
            return f"waiting for memory to load model {_word(progress.model)} into"
        case pb.PHASE_PREFILL:
            return f"reading the prompt, {progress.processed_token_count} of {progress.total_token_count} tokens"
        case _:
            return "working"


def _loading(progress: pb.Progress) -> str:
    if not progress.model:
        return "loading the model"
    text = f"loading model {_word(progress.model)}"
    seconds, expected = progress.loading_seconds, progress.expected_loading_seconds
    if expected > 0:
        return f"{text} {min(round(100 * seconds / expected), _MOST_PERCENT)}%"
    return f"{text} {seconds:.0f} s" if seconds > 0 else text


def _word(name: str) -> str:
    """A name without line ends, which would end the comment."""
    return " ".join(name.split())
