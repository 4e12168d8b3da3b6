"""One request on its way to a worker, and what a failure on the way means. Pure but for the call it holds."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

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
    request_class: "pb.RequestClass.ValueType" = pb.REQUEST_CLASS_CHAT
    key_id: str = ""
    group: str = ""
    """The session whose subagents belong together, or empty."""
    hashes: Sequence[bytes] = ()
    token_counts: Sequence[int] = ()
    """Estimated prompt tokens up to each hash."""
    is_continuation: bool = False
    matched_elsewhere: dict[str, int] = field(default_factory=dict)
    """How many of the hashes a worker knows, by worker, as the cache service remembers."""
    is_looked_up: bool = False
    character_count: int = 0
    charged_token_count: int = 0
    arrived_at: float = field(default_factory=time.monotonic)
    attempt_started_at: float = 0.0
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

    @property
    def has_delta(self) -> bool:
        """Whether the client has seen a part of the answer."""
        return self.delivered.has_text

    @property
    def has_begun(self) -> bool:
        """Whether the answer began at a worker that was lost."""
        return self.has_delta

    @property
    def prompt_token_estimate(self) -> int:
        """Tokens in the prompt: counted where known, else estimated from its length."""
        return self.prompt_token_count or (self.token_counts[-1] if self.token_counts else 0)

    @property
    def timeout_seconds(self) -> float | None:
        """How long the client still waits."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

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
