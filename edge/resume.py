"""One answer over as many calls as it takes: where a router is lost, another one, or its successor, goes on with it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from time import monotonic
from typing import Final

import grpc
import structlog
from grpc import StatusCode

from edge.client import GenerateCall
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.continuation import Delivered
from services.shared.errors import ERROR_DOMAIN, BackendFailed, error_info

RESUME_SECONDS: Final = 30.0
"""How long an answer that has begun waits for a router."""
_PAUSE_SECONDS: Final = 0.3
_BROKEN: Final = frozenset({StatusCode.UNAVAILABLE, StatusCode.CANCELLED, StatusCode.UNKNOWN, StatusCode.INTERNAL})
_log = structlog.get_logger(__name__)


def is_connection_lost(error: grpc.aio.AioRpcError) -> bool:
    """Whether the peer is gone; what a peer says itself carries an error info."""
    return error.code() in _BROKEN and error_info(error).domain != ERROR_DOMAIN


async def whole_answer(
    start: Callable[[pb.GenerateRequest], GenerateCall], request: pb.GenerateRequest, *, peer_count: int = 1
) -> AsyncGenerator[pb.GenerateResponse]:
    """Streams an answer; raises what ends it before its finish."""
    progress = _Progress(request, peer_count)
    while True:
        call = start(progress.next_request())
        try:
            async for event in call:
                if (new := progress.new(event)) is not None:
                    yield new
            if progress.is_finished:
                return
            raise BackendFailed("The answer ended without a finish reason.")
        except grpc.aio.AioRpcError as error:
            if progress.is_finished:  # behind its finish, an answer is complete
                return
            if not (is_connection_lost(error) and progress.may_go_on()):
                raise
            _log.warning("router_lost", request_id=request.request_id, code=error.code().name)
        finally:
            call.cancel()
        await asyncio.sleep(_PAUSE_SECONDS if progress.delivered.has_text else 0)


class _Progress:
    """How far an answer has come."""

    def __init__(self, request: pb.GenerateRequest, peer_count: int) -> None:
        self.delivered = Delivered()
        self.is_finished = False
        self._request = request
        self._tries_left = peer_count - 1
        self._lost_at: float | None = None
        self._is_admitted = False

    def next_request(self) -> pb.GenerateRequest:
        """What the next router is asked."""
        self.delivered.restart()
        if not self.delivered.token_ids:
            return self._request
        continued = pb.GenerateRequest()
        continued.CopyFrom(self._request)
        continued.resume_tokens[:] = self.delivered.token_ids
        return continued

    def new(self, event: pb.GenerateResponse) -> pb.GenerateResponse | None:
        """Returns what of an event was not there yet."""
        match event.WhichOneof("event"):
            case "delta":
                self._lost_at = None
                delta = self.delivered.take(event.delta)
                return None if delta is None else event if delta is event.delta else pb.GenerateResponse(delta=delta)
            case "admitted":
                was_admitted, self._is_admitted = self._is_admitted, True
                return None if was_admitted else event
            case "finish":
                self.is_finished = True
        return event

    def may_go_on(self) -> bool:
        """Says whether another call makes sense, after the peer of this one was lost."""
        if not self.delivered.has_text:
            self._tries_left -= 1
            return self._tries_left >= 0
        self._lost_at = self._lost_at or monotonic()
        return self.delivered.can_resume and monotonic() - self._lost_at < RESUME_SECONDS
