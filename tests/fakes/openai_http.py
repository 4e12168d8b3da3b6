"""An OpenAI-compatible HTTP server for tests: `python -m tests.fakes.openai_http` prints its port.

The first word of the last message names what it does: answer well, or misbehave in one of the ways real servers do.
"""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 3,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


class FakeRemote:
    """What was asked, and the answers."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.closed_stream_count = 0
        self._calls: Counter[str] = Counter()

    def app(self) -> Starlette:
        routes = [
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
            Route("/recorded", self.recorded),
        ]
        return Starlette(routes=routes)

    async def recorded(self, request: Request) -> Response:
        return JSONResponse({"requests": self.requests, "closed_stream_count": self.closed_stream_count})

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        assert request.client is not None
        self.requests.append({"body": body, "headers": dict(request.headers), "client_port": request.client.port})
        text = body["messages"][-1]["content"]
        self._calls[text] += 1
        scenario = text.split()[0]
        if scenario in _REFUSALS:
            status, document, headers = _REFUSALS[scenario]
            return JSONResponse(document, status, headers)
        if scenario in _STREAMS:
            return _stream(_STREAMS[scenario])
        return await getattr(self, f"_{scenario}")(text, request)

    async def _flaky(self, text: str, request: Request) -> Response:
        if self._calls[text] < 3:
            return PlainTextResponse("<html>bad gateway</html>", status_code=502)
        return _stream(_STREAMS["good"])

    async def _crowded(self, text: str, request: Request) -> Response:
        if self._calls[text] < 2:
            document = {"error": {"message": "Slow down.", "code": "1302"}}
            return JSONResponse(document, status_code=429, headers={"retry-after": "1"})
        return _stream(_STREAMS["good"])

    async def _json(self, text: str, request: Request) -> Response:
        message = {"role": "assistant", "content": "whole", "tool_calls": [_call({"id": "j1"}, "read", {"path": "a"})]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        return JSONResponse({"choices": [choice], "usage": USAGE})

    async def _echo_key(self, text: str, request: Request) -> Response:
        message = f"Incorrect API key provided: {request.headers['authorization']}"
        return JSONResponse({"error": {"message": message, "code": "invalid_api_key"}}, 401)

    async def _page(self, text: str, request: Request) -> Response:
        return HTMLResponse("<html>Welcome</html>")

    async def _hang(self, text: str, request: Request) -> Response:
        await asyncio.sleep(30)
        raise AssertionError("the client should have left")

    async def _stall(self, text: str, request: Request) -> Response:
        return StreamingResponse(self._until_closed(period_seconds=30.0), media_type="text/event-stream")

    async def _endless(self, text: str, request: Request) -> Response:
        return StreamingResponse(self._until_closed(period_seconds=0.02), media_type="text/event-stream")

    async def _flood(self, text: str, request: Request) -> Response:
        pieces = self._until_closed(period_seconds=0.0, piece="x" * 100_000)
        return StreamingResponse(pieces, media_type="text/event-stream")

    async def _until_closed(self, *, period_seconds: float, piece: str = "more ") -> AsyncIterator[bytes]:
        try:
            while True:
                yield frame(content(piece))
                await asyncio.sleep(period_seconds)
        finally:
            self.closed_stream_count += 1


def content(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def finish(reason: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def calls(*pieces: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"tool_calls": list(pieces)}, "finish_reason": None}]}


def frame(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\r\n\r\n"


def _call(base: dict[str, Any], name: str | None, arguments: object) -> dict[str, Any]:
    return {**base, "type": "function", "function": {"name": name, "arguments": arguments}}


def _cut() -> Iterable[bytes]:
    yield frame(content("half an ans"))
    raise ConnectionError("cut on purpose")


def _cut_after_finish() -> Iterable[bytes]:
    yield frame(content("all there"))
    yield frame(finish("stop"))
    raise ConnectionError("cut on purpose")


def _sent(*frames: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: frames


_DONE = b"data: [DONE]\n\n"
_STREAMS: dict[str, Callable[[], Iterable[bytes]]] = {
    "good": _sent(
        b": waking up\n\n",
        frame({"choices": [{"index": 0, "delta": {"role": "assistant", "reasoning_content": "hm"}}]}),
        frame(content("Hello, ")),
        frame(content("wörld")),
        frame(finish("stop")),
        frame({"choices": [], "usage": USAGE}),
        _DONE,
    ),
    "tools": _sent(
        frame(calls(_call({"index": 0, "id": "a"}, "read", ""))),
        frame(calls({"index": 0, "function": {"arguments": '{"path":'}})),
        frame(calls({"index": 0, "function": {"arguments": '"x"}'}})),
        frame(calls(_call({"index": 1, "id": "b"}, "list", '{"all":true}'))),
        frame(finish("stop")),
        _DONE,
    ),
    "cut": _cut,
    "cut_after_finish": _cut_after_finish,
    "malformed": _sent(frame(content("ok")), b"data: {broken\n\n", frame(finish("stop")), _DONE),
    "unfinished": _sent(frame(content("and then")), _DONE),
    "late_error": _sent(frame(content("so")), frame({"error": {"message": "engine died", "code": 500}})),
}
_REFUSALS: dict[str, tuple[int, dict[str, Any], dict[str, str]]] = {
    "busy": (429, {"error": {"message": "Rate limit reached"}}, {"retry-after": "7"}),
    "too_long": (400, {"error": {"message": "Prompt exceeds max length", "code": "1261"}}, {}),
    "invalid": (400, {"error": {"message": "top_p is out of range", "param": "top_p"}}, {}),
    "unknown": (404, {"error": {"message": "no such model", "code": "model_not_found"}}, {}),
    "down": (503, {"error": {"message": "maintenance"}}, {"retry-after": "60"}),
}


def _stream(frames: Callable[[], Iterable[bytes]]) -> Response:
    async def sent() -> AsyncIterator[bytes]:
        for data in frames():
            yield data
            await asyncio.sleep(0.01)

    return StreamingResponse(sent(), media_type="text/event-stream")


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(FakeRemote().app(), log_level="critical", lifespan="off")
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
