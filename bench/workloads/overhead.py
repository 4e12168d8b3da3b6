"""What our own processes add to the first token: a model that answers at once, asked at each hop."""

import time
from typing import TYPE_CHECKING

from bench.raw_client import open_raw
from bench.servers.localcode import to_generate_request
from bench.servers.target import Target
from bench.stats import quantile
from bench.workload import OURS, Round, Sample, Workload
from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceStub
from services.shared.grpc_runtime import open_channel

if TYPE_CHECKING:  # the name exists in the stubs' types only
    from localcode.inference.v1.inference_pb2_grpc import InferenceServiceAsyncStub

_HOPS = ("worker", "router", "edge")
_WARM_UP = 10
_REQUEST = {
    "model": "main",
    "messages": [{"role": "user", "content": "Good morning"}],
    "temperature": 0,
    "max_tokens": 4,
}


async def measure(target: Target, turn: Round) -> list[Sample]:
    """Asks at the worker, at the router and at the edge in turn, so that noise meets all alike."""
    seconds: dict[str, list[float]] = {hop: [] for hop in _HOPS}
    request = to_generate_request(_REQUEST)
    async with (
        open_channel(target.addresses["worker"]) as worker,
        open_channel(target.addresses["router"]) as router,
        open_raw(str(target.http.base_url)) as edge,
    ):
        stubs = {"worker": InferenceServiceStub(worker), "router": InferenceServiceStub(router)}
        for _ in range(_WARM_UP + turn.sizes.overhead_requests):
            for hop, stub in stubs.items():
                seconds[hop].append(await _ttft_seconds(stub, request))
            seconds["edge"].append(await edge.ttft_seconds(target.named(_REQUEST)))
    return list(_samples({hop: values[_WARM_UP:] for hop, values in seconds.items()}))


def _samples(seconds: dict[str, list[float]]) -> list[Sample]:
    at = {(hop, share): 1000 * quantile(values, share) for hop, values in seconds.items() for share in (0.5, 0.99)}
    samples = []
    for share in (0.5, 0.99):
        label = f"p{round(share * 100)}"
        samples += [Sample(f"TTFT at the {hop}, {label}", at[hop, share], "ms", "lower") for hop in _HOPS]
        samples += [
            Sample(f"added by the router, {label}", at["router", share] - at["worker", share], "ms", "lower"),
            Sample(f"added by the edge, {label}", at["edge", share] - at["router", share], "ms", "lower"),
            Sample(f"added in all, {label}", at["edge", share] - at["worker", share], "ms", "lower"),
        ]
    return samples


async def _ttft_seconds(stub: "InferenceServiceAsyncStub", request: pb.GenerateRequest) -> float:
    started, first = time.perf_counter(), 0.0
    async for response in stub.Generate(request, timeout=60):
        if response.HasField("delta") and not first:
            first = time.perf_counter()
    return first - started


OVERHEAD = Workload(
    "overhead",
    "TTFT of a short request at each hop, with a scripted model that needs next to no computing",
    measure,
    contestants=(OURS,),
    model="scripted",
    fresh=False,
)
