"""One request on its way to a worker, and what a failure on the way means. Pure but for the call it holds."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

import grpc
from grpc import StatusCode

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.continuation import Delivered
from services.shared.errors import ERROR_DOMAIN, error_info

_BROKEN: Final = frozenset({StatusCode.UNAVAILABLE, StatusCode.CANCELLED, StatusCode.UNKNOWN, StatusCode.INTERNAL})
_REFUSALS: Final = frozenset({StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED})


class Failure(Enum):
    """What a failed call says about the worker."""

    LOST = auto()
    """The process or the connection to it is gone."""
    REFUSED = auto()
    """It lives, but can't take this request now; another one may."""
    FINAL = auto()
    """Any worker would answer the same."""


def judge(error: grpc.aio.AioRpcError, *, is_resumed: bool = False) -> Failure:
    """Tells a worker's own errors, which carry an error info, from those of the transport, which don't.

    A worker that can't continue an answer (`is_resumed`) because its model is remote is passed by like a full one.
    """
    is_own = error_info(error).domain == ERROR_DOMAIN
    if not is_own and error.code() in _BROKEN:
        return Failure.LOST
    can_not_resume = is_resumed and error.code() is StatusCode.UNIMPLEMENTED
    return Failure.REFUSED if error.code() in _REFUSALS or can_not_resume else Failure.FINAL


@dataclass
class Trip:
    """What has happened to a request so far."""

    model: str
    request_id: str = ""
    hashes: Sequence[bytes] = ()
    is_continuation: bool = False
    deadline: float | None = None
    """When the client stops waiting, in seconds of the monotonic clock."""
    attempt_count: int = 0
    lost_count: int = 0
    """Workers lost in a row without a new part of the answer between them."""
    refusals: dict[str, grpc.aio.AioRpcError] = field(default_factory=dict)
    waiting_since: float | None = None
    is_admitted: bool = False
    is_finished: bool = False
    prompt_token_count: int = 0
    delivered: Delivered = field(default_factory=Delivered)
    call: Any = None

    @property
    def has_delta(self) -> bool:
        """Whether the client has seen a part of the answer."""
        return self.delivered.has_text

    @property
    def timeout_seconds(self) -> float | None:
        """How long the client still waits."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    def cancel(self, *_: object) -> None:
        """Cancels the worker's call, if one is open."""
        if self.call is not None:
            self.call.cancel()

    def begin_attempt(self, request: pb.GenerateRequest) -> pb.GenerateRequest:
        """Returns what the next worker is asked: the request, continued behind what the client has."""
        self.attempt_count += 1
        self.delivered.restart()
        if len(self.delivered.token_ids) <= len(request.resume_tokens):
            return request
        continued = pb.GenerateRequest()
        continued.CopyFrom(request)
        continued.resume_tokens[:] = self.delivered.token_ids
        return continued

    def lose(self) -> None:
        """Notes that a worker was lost; the wait for another one begins anew."""
        self.lost_count += 1
        self.waiting_since = None

    def passed(self, event: pb.GenerateResponse) -> pb.GenerateResponse | None:
        """Notes an event of a worker, and returns what of it the client gets to see."""
        if self.is_finished:
            return None
        match event.WhichOneof("event"):
            case "delta":
                return self._passed_delta(event)
            case "admitted":
                self.prompt_token_count = event.admitted.prompt_token_count
                was_admitted, self.is_admitted = self.is_admitted, True
                return None if was_admitted else event
            case "finish":
                self.is_finished = True
                self.prompt_token_count = event.finish.usage.prompt_token_count or self.prompt_token_count
        return event

    def _passed_delta(self, event: pb.GenerateResponse) -> pb.GenerateResponse | None:
        new = self.delivered.take(event.delta)
        if new is None:
            return None
        self.lost_count = 0
        return event if new is event.delta else pb.GenerateResponse(delta=new)
