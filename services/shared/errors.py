"""The errors that cross a service boundary, and their form on the wire.

On the wire an error is a gRPC status whose details hold one `google.rpc.ErrorInfo`
(https://google.aip.dev/193): `reason` names the case, `metadata["param"]` the field of the HTTP request.
"""

from typing import Any, ClassVar, Final, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

ERROR_DOMAIN: Final = "localcode"
_DETAILS_KEY: Final = "grpc-status-details-bin"


class ServiceError(Exception):
    """An error that the caller is told about; `message` says what is wrong and what to do."""

    code: ClassVar[StatusCode] = StatusCode.INTERNAL
    reason: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, param: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds


class InvalidRequest(ServiceError):
    """The request is malformed; `param` names the field."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "invalid_request"


class ContextLengthExceeded(ServiceError):
    """The prompt does not fit the model's context."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "context_length_exceeded"

    @classmethod
    def of(cls, prompt_token_count: int, context_length: int) -> "ContextLengthExceeded":
        """Says it in the words that clients recognise and compact on."""
        return cls(
            f"This model's maximum context length is {context_length} tokens, but the prompt has "
            f"{prompt_token_count} tokens. Please reduce the length of the messages.",
            param="messages",
        )


class ModelNotFound(ServiceError):
    """No model has this name."""

    code = StatusCode.NOT_FOUND
    reason = "model_not_found"


class Overloaded(ServiceError):
    """The queue is full."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "rate_limit_exceeded"


class NoWorker(ServiceError):
    """No worker that could answer is alive."""

    code = StatusCode.UNAVAILABLE
    reason = "no_worker"


class WorkerLost(ServiceError):
    """The worker stopped in the middle of an answer that the client has seen a part of."""

    code = StatusCode.UNAVAILABLE
    reason = "worker_lost"


class StoreUnavailable(ServiceError):
    """The store behind the cache service does not answer."""

    code = StatusCode.UNAVAILABLE
    reason = "store_unavailable"


class StoreFull(ServiceError):
    """The disk, or the byte budget, has no room for a block."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "store_full"


class BlockNotFound(ServiceError):
    """The store holds no block of this hash."""

    code = StatusCode.NOT_FOUND
    reason = "block_not_found"


class NameNotFound(ServiceError):
    """Nothing was saved under this name."""

    code = StatusCode.NOT_FOUND
    reason = "name_not_found"


class BlockBusy(ServiceError):
    """A block of this hash is being deleted; storing it works a moment later."""

    code = StatusCode.ABORTED
    reason = "block_busy"


class Unsupported(ServiceError):
    """The server can't do this."""

    code = StatusCode.UNIMPLEMENTED
    reason = "unsupported"


class BackendFailed(ServiceError):
    """Something broke inside; the message holds nothing secret."""

    code = StatusCode.INTERNAL
    reason = "server_error"


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """Reads the error info of a failed call; empty where the peer attached none."""
    info = error_details_pb2.ErrorInfo()
    for key, value in _trailing_metadata(error):
        if key == _DETAILS_KEY:
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                if detail.Unpack(info):
                    return info
    return info


def retry_after_seconds(info: error_details_pb2.ErrorInfo) -> float | None:
    """Reads after how many seconds a retry makes sense, if the error says so."""
    text = info.metadata.get("retry_after_seconds")
    return float(text) if text else None


def trailing_details(error: ServiceError) -> tuple[tuple[str, bytes], ...]:
    """Packs the error info of an error as trailing metadata."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN)
    if error.param:
        info.metadata["param"] = error.param
    if error.retry_after_seconds is not None:
        info.metadata["retry_after_seconds"] = f"{error.retry_after_seconds:.3f}"
    packed = any_pb2.Any()
    packed.Pack(info)
    status = status_pb2.Status(code=_number(error.code), message=error.message, details=[packed])
    return ((_DETAILS_KEY, status.SerializeToString()),)


async def abort(context: "grpc.aio.ServicerContext[object, object]", error: ServiceError) -> NoReturn:
    """Ends a call with an error."""
    await context.abort(error.code, error.message, trailing_details(error))
    raise AssertionError("context.abort always raises")


def _number(code: StatusCode) -> int:
    number, _ = code.value
    return int(number)


def _trailing_metadata(error: grpc.RpcError) -> list[tuple[str, bytes]]:
    metadata: Any = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    return [(key, value) for key, value in metadata or () if isinstance(value, bytes)]
