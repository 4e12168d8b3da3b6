"""What a remote's refusals mean to our callers. Messages never hold the key."""

import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from grpc import StatusCode
from pydantic import SecretStr

from services.shared.errors import (
    BackendFailed,
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    NoWorker,
    Overloaded,
    ServiceError,
)
from services.upstream.settings import PLACEHOLDER_KEY

_MAX_MESSAGE_CHARACTERS: Final = 500
_PROMPT_TOO_LONG: Final = 1261  # GLM's code
_OVERFLOW_CODES: Final = {"context_length_exceeded", "exceed_context_size_error", str(_PROMPT_TOO_LONG)}
_OVERFLOW_MESSAGE: Final = re.compile(
    r"maximum context length|exceed\w*\s(\w+\s){0,3}context|context (length|window|size)\b.{0,40}\bexceed"
    r"|(prompt|input) (is )?too long|prompt exceeds max length|reduce the length of the (messages|prompt)"
    r"|too many (input |prompt )?tokens",
    re.IGNORECASE | re.DOTALL,
)
_KEY_STATUSES: Final = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_AWAY_STATUSES: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY}


class UpstreamAway(NoWorker):
    """The remote failed to take the request; it may take it the next moment."""


class UpstreamTimeout(NoWorker):
    """The remote took too long."""


class UpstreamKeyRefused(ServiceError):
    """The remote refused our key. Not `UNAUTHENTICATED`, which would tell callers that theirs is wrong."""

    code = StatusCode.FAILED_PRECONDITION  # nothing to retry until the operator sets the key
    reason = "upstream_key_refused"


@dataclass(frozen=True)
class Remote:
    """A remote as error messages name it."""

    model: str
    host: str
    key_variable: str
    key: SecretStr

    def __str__(self) -> str:
        return f"The upstream {self.model} ({self.host})"

    def without_key(self, text: str) -> str:
        """Blots the key out, which some remotes repeat in their messages."""
        key = self.key.get_secret_value()
        return text if key == PLACEHOLDER_KEY else text.replace(key, "***")


@dataclass(frozen=True)
class _Complaint:
    message: str
    codes: frozenset[str]
    param: str

    @property
    def is_overflow(self) -> bool:
        return bool(self.codes & _OVERFLOW_CODES) or _OVERFLOW_MESSAGE.search(self.message) is not None


def refusal(remote: Remote, status: int, document: object, headers: Mapping[str, str]) -> ServiceError:
    """Names the error behind an HTTP status other than 200 and what came with it, parsed if it was JSON."""
    return _service_error(remote, status, _complaint(remote, document), retry_after_seconds(headers))


def stream_error(remote: Remote, document: object) -> ServiceError:
    """Names the error that a remote reports inside an answer that it began with 200."""
    complaint = _complaint(remote, document)
    statuses = [int(code) for code in complaint.codes if code.isdecimal() and 400 <= int(code) < 600]
    return _service_error(remote, statuses[0] if statuses else 500, complaint, None)


def retry_after_seconds(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Reads `Retry-After` (seconds or a date) or `retry-after-ms`, if the remote says when to come back."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    if (seconds := _number(text)) is not None:
        return seconds
    try:
        date = email.utils.parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds())


def _service_error(remote: Remote, status: int, complaint: _Complaint, retry_after: float | None) -> ServiceError:
    said = f": {complaint.message}" if complaint.message else " without saying why."
    if status in _KEY_STATUSES:
        return UpstreamKeyRefused(f"{remote} refused the server's key. {_key_remedy(remote)} The refusal{said}")
    if status == HTTPStatus.TOO_MANY_REQUESTS:  # also "too many tokens a minute", which is no overflow
        return Overloaded(f"{remote} takes no more requests now{said}", retry_after_seconds=retry_after)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or complaint.is_overflow:
        return ContextLengthExceeded(f"The prompt exceeds the context window of {remote.model}{said}", param="messages")
    if status == HTTPStatus.NOT_FOUND:
        return ModelNotFound(f"{remote} knows no such model or path{said}", param="model")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _AWAY_STATUSES:
        return UpstreamAway(f"{remote} failed ({status}){said}", retry_after_seconds=retry_after)
    if status >= HTTPStatus.BAD_REQUEST:
        return InvalidRequest(f"{remote} refused the request{said}", param=complaint.param)
    return BackendFailed(f"{remote} answered with status {status} and no completion; is base_url right?")


def _key_remedy(remote: Remote) -> str:
    if remote.key_variable:
        return f"Set the environment variable {remote.key_variable} to a valid key and restart."
    return "Name the environment variable that holds a valid key as api_key_variable and restart."


def _complaint(remote: Remote, document: Any) -> _Complaint:
    error = document.get("error", document) if isinstance(document, dict) else document
    if not isinstance(error, dict):
        return _Complaint(_shown(remote, error), frozenset(), "")
    message = next((error[name] for name in ("message", "detail", "msg") if error.get(name)), "")
    codes = frozenset(str(error[name]) for name in ("code", "type", "status") if error.get(name))
    return _Complaint(_shown(remote, message), codes, str(error.get("param") or ""))


def _shown(remote: Remote, message: object) -> str:
    text = remote.without_key(message if isinstance(message, str) else str(message or ""))
    return " ".join(text.split())[:_MAX_MESSAGE_CHARACTERS]


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
