"""One request on its way to a worker, and what a failure on the way means. Pure but for the call it holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

import grpc
from grpc import StatusCode

from localcode.inference.v1 import inference_pb2 as pb
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


def judge(error: grpc.aio.AioRpcError) -> Failure:
    """Tells a worker's own errors, which carry an error info, from those of the transport, which don't."""
    is_own = error_info(error).domain == ERROR_DOMAIN
    if not is_own and error.code() in _BROKEN:
        return Failure.LOST
    return Failure.REFUSED if error.code() in _REFUSALS else Failure.FINAL


@dataclass
class Trip:
    """What has happened to a request so far."""

    model: str
    request_id: str = ""
    hashes: Sequence[bytes] = ()
    is_continuation: bool = False
    timeout_seconds: float | None = None
    attempt_count: int = 0
    refusals: dict[str, grpc.aio.AioRpcError] = field(default_factory=dict)
    waiting_since: float | None = None
    is_admitted: bool = False
    has_delta: bool = False
    is_finished: bool = False
    prompt_token_count: int = 0
    call: Any = None

    def cancel(self, *_: object) -> None:
        """Cancels the worker's call, if one is open."""
        if self.call is not None:
            self.call.cancel()

    def passes(self, event: pb.GenerateResponse) -> bool:
        """Notes an event of a worker, and says whether the client gets to see it."""
        if self.is_finished:
            return False
        kind = event.WhichOneof("event")
        if kind == "delta":
            self.has_delta = True
        elif kind == "admitted":
            self.prompt_token_count = event.admitted.prompt_token_count
            was_admitted, self.is_admitted = self.is_admitted, True
            return not was_admitted
        elif kind == "finish":
            self.is_finished = True
            self.prompt_token_count = event.finish.usage.prompt_token_count or self.prompt_token_count
        return True
