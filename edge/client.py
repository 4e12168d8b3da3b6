"""The edge's view of the router, or of the single worker that it is pointed at."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc import StatusCode
from grpc.aio import Channel, UnaryStreamCall

from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceStub
from localcode.router.v1 import router_pb2
from localcode.router.v1.router_pb2_grpc import RouterServiceStub
from services.shared.grpc_runtime import is_serving, open_channel

GenerateCall = UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]


class InferenceClient:
    """Calls the inference service; every call has a deadline."""

    def __init__(self, channel: Channel, *, generate_timeout_seconds: float, status_timeout_seconds: float) -> None:
        self._channel = channel
        self._inference = InferenceServiceStub(channel)
        self._router = RouterServiceStub(channel)
        self._generate_timeout_seconds = generate_timeout_seconds
        self._status_timeout_seconds = status_timeout_seconds

    def generate(self, request: pb.GenerateRequest) -> GenerateCall:
        """Starts a generation; cancelling the call frees its slot."""
        return self._inference.Generate(request, timeout=self._generate_timeout_seconds)

    async def models(self) -> list[pb.ModelDescription]:
        """Lists the models, the default first."""
        answer = await self._inference.Describe(pb.DescribeRequest(), timeout=self._status_timeout_seconds)
        return list(answer.models)

    async def router_status(self) -> router_pb2.GetStatusResponse | None:
        """Asks the router for its view of the system; None if the peer is no router."""
        try:
            return await self._router.GetStatus(router_pb2.GetStatusRequest(), timeout=self._status_timeout_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() == StatusCode.UNIMPLEMENTED:
                return None
            raise

    async def is_serving(self) -> bool:
        """Says whether the peer takes calls."""
        return await is_serving(self._channel, timeout_seconds=self._status_timeout_seconds)


@asynccontextmanager
async def open_inference_client(
    address: str, *, generate_timeout_seconds: float, status_timeout_seconds: float
) -> AsyncIterator[InferenceClient]:
    """Opens a client of `host:port` or `unix:/path`, and closes it when left."""
    async with open_channel(address) as channel:
        yield InferenceClient(
            channel,
            generate_timeout_seconds=generate_timeout_seconds,
            status_timeout_seconds=status_timeout_seconds,
        )
