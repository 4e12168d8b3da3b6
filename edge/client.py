"""The edge's view of the router, or of the single worker that it is pointed at."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import grpc
from google.protobuf.message import Message
from grpc import ChannelConnectivity, StatusCode
from grpc.aio import Channel, UnaryStreamCall

from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceStub
from localcode.inference.v1.state_pb2_grpc import StateServiceStub
from localcode.router.v1 import router_pb2
from localcode.router.v1.router_pb2_grpc import RouterServiceStub
from localcode.supervisor.v1 import supervisor_pb2
from services.shared.grpc_runtime import is_serving, open_channel

if TYPE_CHECKING:
    from localcode.inference.v1.state_pb2_grpc import StateServiceAsyncStub as StateStub
else:
    StateStub = StateServiceStub
_STATE_TIMEOUT_SECONDS: Final = 120.0  # a slot is waited for, and a long conversation written
_ESTIMATE_TIMEOUT_SECONDS: Final = 30.0  # a long prompt is tokenized
_LOAD_TIMEOUT_SECONDS: Final = 10.0
_STATES: Final = {
    ChannelConnectivity.READY: 0,
    ChannelConnectivity.IDLE: 1,
    ChannelConnectivity.CONNECTING: 2,
    ChannelConnectivity.TRANSIENT_FAILURE: 3,
}
Answer = TypeVar("Answer")
GenerateCall = UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]


class _Peer:
    """One router, or worker."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.inference = InferenceServiceStub(channel)
        self.router = RouterServiceStub(channel)
        self.state: StateStub = StateServiceStub(channel)


class InferenceClient:
    """Calls the inference service, at any of its peers that answers; every call has a deadline."""

    def __init__(
        self, channels: Sequence[Channel], *, generate_timeout_seconds: float, status_timeout_seconds: float
    ) -> None:
        self._peers = [_Peer(channel) for channel in channels]
        self._turn = 0
        self._generate_timeout_seconds = generate_timeout_seconds
        self._status_timeout_seconds = status_timeout_seconds

    @property
    def peer_count(self) -> int:
        """How many routers there are."""
        return len(self._peers)

    def generate(self, request: pb.GenerateRequest) -> GenerateCall:
        """Starts a generation; cancelling the call frees its slot."""
        return self._peer().inference.Generate(request, timeout=self._generate_timeout_seconds)

    async def models(self) -> list[pb.ModelDescription]:
        """Lists the models, the default first."""
        answer = await self._peer().inference.Describe(pb.DescribeRequest(), timeout=self._status_timeout_seconds)
        return list(answer.models)

    async def router_status(self) -> router_pb2.GetStatusResponse | None:
        """Asks the router for its view of the system; None if the peer is no router."""
        try:
            return await self._peer().router.GetStatus(
                router_pb2.GetStatusRequest(), timeout=self._status_timeout_seconds
            )
        except grpc.aio.AioRpcError as error:
            if error.code() == StatusCode.UNIMPLEMENTED:
                return None
            raise

    async def state(self, method: Callable[[StateStub], Callable[..., Awaitable[Answer]]], request: Message) -> Answer:
        """Asks something about the state of conversations."""
        return await method(self._peer().state)(request, timeout=_STATE_TIMEOUT_SECONDS)

    async def route(self, request: pb.GenerateRequest) -> router_pb2.RouteResponse:
        """Asks where a request would go."""
        asked = router_pb2.RouteRequest(request=request)
        return await self._peer().router.Route(asked, timeout=self._status_timeout_seconds)

    async def estimate(self, request: pb.GenerateRequest) -> router_pb2.EstimateResponse:
        """Asks what a request would cost."""
        asked = router_pb2.EstimateRequest(request=request)
        return await self._peer().router.Estimate(asked, timeout=_ESTIMATE_TIMEOUT_SECONDS)

    async def load_model(self, model: str) -> supervisor_pb2.ManagedModel:
        """Asks for a model to be loaded."""
        asked = router_pb2.LoadModelRequest(model=model)
        return (await self._peer().router.LoadModel(asked, timeout=_LOAD_TIMEOUT_SECONDS)).model

    async def unload_model(self, model: str) -> supervisor_pb2.ManagedModel:
        """Asks for a model to be unloaded when its answers are whole."""
        asked = router_pb2.UnloadModelRequest(model=model)
        return (await self._peer().router.UnloadModel(asked, timeout=_LOAD_TIMEOUT_SECONDS)).model

    def _peer(self) -> _Peer:
        """Takes the peers in turn, those first whose connection stands."""
        self._turn += 1
        in_turn = [self._peers[(self._turn + index) % len(self._peers)] for index in range(len(self._peers))]
        return min(in_turn, key=lambda peer: _STATES.get(peer.channel.get_state(try_to_connect=True), 2))

    async def is_serving(self) -> bool:
        """Says whether the peer takes calls."""
        return await is_serving(self._peer().channel, timeout_seconds=self._status_timeout_seconds)


@asynccontextmanager
async def open_inference_client(
    addresses: Sequence[str], *, generate_timeout_seconds: float, status_timeout_seconds: float
) -> AsyncIterator[InferenceClient]:
    """Opens a client of routers at `host:port` or `unix:/path`, and closes it when left."""
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(open_channel(address)) for address in addresses]
        yield InferenceClient(
            channels,
            generate_timeout_seconds=generate_timeout_seconds,
            status_timeout_seconds=status_timeout_seconds,
        )
