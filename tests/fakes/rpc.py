"""Errors as they are after their way over the wire."""

from grpc.aio import AioRpcError, Metadata

from services.shared.errors import ServiceError, trailing_details


def rpc_error(error: ServiceError) -> AioRpcError:
    return AioRpcError(error.code, Metadata(), Metadata(*trailing_details(error)), error.message)
