"""The one table from gRPC statuses to HTTP, and the OpenAI form of every error."""

import math
import random
from dataclasses import dataclass
from typing import Any, Final

import grpc
import orjson
import structlog
from grpc import StatusCode
from starlette.responses import Response

from services.shared.errors import ERROR_DOMAIN, ServiceError, error_info, retry_after_seconds

_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"
HTTP_STATUS_AND_TYPE: Final = {
    StatusCode.INVALID_ARGUMENT: (400, _INVALID),
    StatusCode.FAILED_PRECONDITION: (400, _INVALID),
    StatusCode.OUT_OF_RANGE: (400, _INVALID),
    StatusCode.UNIMPLEMENTED: (400, _INVALID),
    StatusCode.UNAUTHENTICATED: (401, _INVALID),
    StatusCode.PERMISSION_DENIED: (403, _INVALID),
    StatusCode.NOT_FOUND: (404, _INVALID),
    StatusCode.RESOURCE_EXHAUSTED: (429, "rate_limit_error"),
    StatusCode.UNAVAILABLE: (503, "service_unavailable_error"),
    StatusCode.DEADLINE_EXCEEDED: (504, _SERVER),
}
_REQUEST_TOO_LARGE: Final = "request_too_large"
_STATUS_OF_REASON: Final = {_REQUEST_TOO_LARGE: 413, "models_fixed": 501, "model_pinned": 409}
"""Cases that gRPC has no word of its own for."""
_DEFAULT_RETRY_SECONDS: Final = 2.0
_RETRY_STATUSES: Final = frozenset({429, 503})
_UNEXPLAINED: Final = {
    StatusCode.UNAVAILABLE: "The model service can't be reached right now. Try again in a moment.",
    StatusCode.DEADLINE_EXCEEDED: "The answer took too long.",
    StatusCode.RESOURCE_EXHAUSTED: "The server is busy, or the message is too large for it.",
    StatusCode.UNIMPLEMENTED: "The model service can't do this.",
}
_log = structlog.get_logger(__name__)


class InvalidApiKey(ServiceError):
    """The key is missing or not one of the configured ones."""

    code = StatusCode.UNAUTHENTICATED
    reason = "invalid_api_key"


class RequestTooLarge(ServiceError):
    """The body is larger than this server reads."""

    code = StatusCode.INVALID_ARGUMENT
    reason = _REQUEST_TOO_LARGE


@dataclass(frozen=True)
class ApiError:
    """An error as an HTTP client sees it."""

    status: int
    message: str
    kind: str
    code: str | None = None
    param: str | None = None
    retry_after_seconds: float | None = None

    def body(self) -> dict[str, Any]:
        """The OpenAI form."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def api_error(error: Exception) -> ApiError:
    """Maps what went wrong to what the client is told."""
    if isinstance(error, ServiceError):
        return _of(error.code, error.message, error.reason, error.param, error.retry_after_seconds)
    if isinstance(error, grpc.aio.AioRpcError):
        return _of_rpc(error)
    return internal_error()


def internal_error() -> ApiError:
    """What a client is told about a defect of this server; the log says more."""
    return ApiError(500, "Something broke inside the server; its log says more.", _SERVER, _SERVER)


def error_response(error: ApiError, *, headers: dict[str, str] | None = None) -> Response:
    """Answers with an error, and says when to retry where that makes sense."""
    return Response(
        orjson.dumps(error.body()),
        status_code=error.status,
        headers={**(headers or {}), **_retry_headers(error)},
        media_type="application/json",
    )


def error_chunk(error: ApiError) -> dict[str, Any]:
    """The form of an error behind the headers of a stream.

    Coding agents compact on an overflow only where the message itself is JSON, and retry on `server_error`.
    """
    if error.code == "context_length_exceeded":
        inner = {"type": "error", "error": {"code": error.code, "message": error.message}}
        return {"error": {"message": orjson.dumps(inner).decode()}}
    is_retryable = error.status in _RETRY_STATUSES or error.status >= 500
    kind = _SERVER if is_retryable else error.kind
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def _of(code: StatusCode, message: str, reason: str, param: str, retry_after: float | None) -> ApiError:
    status, kind = HTTP_STATUS_AND_TYPE.get(code, (500, _SERVER))
    status = _STATUS_OF_REASON.get(reason, status)
    return ApiError(status, message, kind, reason, param or None, retry_after)


def _of_rpc(error: grpc.aio.AioRpcError) -> ApiError:
    info = error_info(error)
    if info.domain == ERROR_DOMAIN:
        param = info.metadata.get("param", "")
        return _of(error.code(), error.details() or "", info.reason, param, retry_after_seconds(info))
    # Details that no service of ours wrote name addresses and internals: they stay in the log.
    _log.warning("unexplained_rpc_error", code=error.code().name, details=error.details())
    if message := _UNEXPLAINED.get(error.code()):
        return _of(error.code(), message, error.code().name.lower(), "", None)
    return internal_error()


def _retry_headers(error: ApiError) -> dict[str, str]:
    if error.status not in _RETRY_STATUSES:
        return {}
    base = error.retry_after_seconds or _DEFAULT_RETRY_SECONDS
    seconds = base * random.uniform(1.0, 1.5)  # noqa: S311  # clients add no jitter of their own
    return {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}
