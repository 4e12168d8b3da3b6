"""What every gRPC process here has in common: channels, servers, health, signals."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import structlog
from grpc.aio import Channel, Server
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.shared.errors import BackendFailed, ServiceError, trailing_details
from services.shared.settings import ConfigurationError

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
_OPTIONS: Final[Sequence[tuple[str, int | str]]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),  # internal calls never leave through a proxy
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
    # A worker that was killed is back within seconds; the default back-off would hide it for minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
_log = structlog.get_logger(__name__)


def open_channel(address: str) -> Channel:
    """Opens a channel to `host:port` or `unix:/path`. It connects on first use and again after a loss."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns a `ServiceError` into its gRPC status, and any other exception into a bare INTERNAL one and a log entry."""

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Wraps the handler of a call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                _guarded_stream(handler.unary_stream, method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                _guarded_call(handler.unary_unary, method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.stream_unary is not None:
            return grpc.stream_unary_rpc_method_handler(
                _guarded_call(handler.stream_unary, method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return handler


def _guarded_stream(call: Any, method: str) -> Any:
    async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in call(request, context):
                yield response
        except Exception as error:
            await _abort(context, error, method)

    return guarded


def _guarded_call(call: Any, method: str) -> Any:
    async def guarded(request: Any, context: Any) -> Any:
        try:
            result = call(request, context)
            return await result if asyncio.iscoroutine(result) else result
        except Exception as error:
            await _abort(context, error, method)

    return guarded


async def _abort(context: Any, error: Exception, method: str) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, grpc.aio.AioRpcError):  # a proxied failure keeps its status and details
        await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
    if not isinstance(error, ServiceError):
        _log.exception("call_failed", method=method, exc_info=error)
        error = BackendFailed("internal error; the server's log says more")
    await context.abort(error.code, error.message, trailing_details(error))


class HealthService:
    """The standard gRPC health service of a process."""

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()

    async def set_serving(self, is_serving: bool) -> None:
        """Says whether the process as a whole takes calls."""
        status = health_pb2.HealthCheckResponse
        await self.servicer.set("", status.SERVING if is_serving else status.NOT_SERVING)


async def is_serving(channel: Channel, *, timeout_seconds: float = 2.0) -> bool:
    """Asks a process whether it takes calls."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_seconds)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@asynccontextmanager
async def running_server(
    listen: str, register: Callable[[Server], None], *, health_service: HealthService, stop_grace_seconds: float = 2.0
) -> AsyncIterator[str]:
    """Serves until left, and yields the address that was bound (port 0 picks a free one).

    Raises `ConfigurationError` for an address that can't be bound.
    """
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=_OPTIONS)
    health_pb2_grpc.add_HealthServicer_to_server(health_service.servicer, server)
    register(server)
    port = _bind(server, listen)
    address = listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"
    await server.start()
    try:
        yield address
    finally:
        await health_service.set_serving(False)
        await server.stop(stop_grace_seconds)


def _bind(server: Server, listen: str) -> int:
    try:
        return int(server.add_insecure_port(listen))
    except RuntimeError as error:
        raise ConfigurationError(f"Can't listen on {listen}: the port is in use, or the address not ours.") from error


async def wait_for_stop_signal() -> None:
    """Returns at the first SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
