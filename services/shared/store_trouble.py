"""What a user of the KV store does when it fails: says so once, and leaves a store that hangs alone for a while."""

import time
from collections.abc import Callable
from enum import Enum
from typing import Final

import structlog
from grpc import StatusCode
from grpc.aio import AioRpcError

PAUSE_SECONDS: Final = 5.0
"""How long nothing is asked of a store that did not answer in time."""
_AWAY: Final = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED})
_log = structlog.get_logger(__name__)


class Use(Enum):
    """What fails, and works again, by itself."""

    ASKING = "asking"
    """The service or its index does not answer."""
    READING = "reading"
    WRITING = "writing"
    KEY = "key"
    """The store is sealed with another key."""


class StoreTrouble:
    """Remembers what fails; the log says when trouble begins, changes or ends, not at each call."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reasons: dict[Use, str] = {}
        self._paused_until = 0.0

    @property
    def is_away(self) -> bool:
        """Whether the service or its index did not answer when it was last asked."""
        return Use.ASKING in self._reasons

    @property
    def is_paused(self) -> bool:
        """Whether the store did not answer in time a moment ago: waiting for it again would delay a request again."""
        return self._clock() < self._paused_until

    def failed(self, use: Use, error: Exception) -> None:
        """Notes a failed call. One that nobody answered counts as `ASKING`, whatever it was for."""
        if _is_late(error):
            self._paused_until = self._clock() + PAUSE_SECONDS
        is_away = _is_late(error) or (isinstance(error, AioRpcError) and error.code() in _AWAY)
        self.note(Use.ASKING if is_away else use, _name(error), _detail(error))

    def note(self, use: Use, reason: str, detail: str) -> None:
        """Notes trouble."""
        if self._reasons.get(use) != reason:
            _log.warning("kv_store_fails", use=use.value, reason=reason, detail=detail)
        self._reasons[use] = reason

    def worked(self, *uses: Use) -> None:
        """Notes what works."""
        for use in uses:
            if self._reasons.pop(use, ""):
                _log.info("kv_store_works_again", use=use.value)


def _is_late(error: Exception) -> bool:
    if isinstance(error, AioRpcError):
        return error.code() is StatusCode.DEADLINE_EXCEEDED
    return isinstance(error, TimeoutError)


def _name(error: Exception) -> str:
    return str(error.code().name).lower() if isinstance(error, AioRpcError) else type(error).__name__


def _detail(error: Exception) -> str:
    return str(error.details()) if isinstance(error, AioRpcError) else str(error)
