"""Many streams while workers and routers are killed, and more of them than the workers can take."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import grpc
import pytest

from edge.client import InferenceClient, open_inference_client
from edge.resume import whole_answer
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import error_info
from tests.integration.test_router_processes import System

pytestmark = pytest.mark.integration
STREAMS, TOKENS = 300, 40
EXPECTED = "".join(f"{number} " for number in range(TOKENS))
SLOTS = 40


def request(text: str, *, key_id: str = "", name: str = "r") -> pb.GenerateRequest:
    message = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text=text)])
    context = pb.RequestContext(key_id=key_id)
    return pb.GenerateRequest(request_id=name, model="coder", chat=pb.ChatPrompt(messages=[message]), context=context)


async def answer(client: InferenceClient, asked: pb.GenerateRequest) -> str:
    events = whole_answer(client.generate, asked, peer_count=client.peer_count)
    return "".join([event.delta.content async for event in events])


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with AsyncExitStack() as stack:
        yield System(tmp_path, stack)


async def kill_workers(system: System, *, seconds: float) -> int:
    """Kills a worker every other second and starts one in its place; returns how many it killed."""
    numbers, deadline, killed = count(100), time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        living = [worker for worker in system.workers.values() if worker.is_running]
        await random.choice(living).kill()
        killed += 1
        await system.start_worker(f"w{next(numbers)}", slots=SLOTS)
        await asyncio.sleep(random.uniform(1.0, 2.5))
    return killed


async def test_every_stream_is_whole_while_workers_are_killed_and_join(system: System, rounds: range) -> None:
    await system.start(LOCALCODE_ROUTER_QUEUE_SIZE="400")
    for name in ("a", "b", "c"):
        await system.start_worker(name, slots=SLOTS)
    await system.until_healthy("a", "b", "c")
    async with open_inference_client(
        [system.router_address], generate_timeout_seconds=120, status_timeout_seconds=5
    ) as client:
        for _ in rounds:
            killing = asyncio.create_task(kill_workers(system, seconds=8))
            asked = [request(f"tell {TOKENS} 0.05", name=f"r{number}") for number in range(STREAMS)]
            said = await asyncio.gather(*(answer(client, one) for one in asked))
            assert [text for text in said if text != EXPECTED] == []
            assert await killing >= 2
    assert (await system.status()).migration_count > 0


async def test_every_stream_is_whole_while_one_of_two_routers_is_killed(system: System) -> None:
    await system.start(LOCALCODE_ROUTER_QUEUE_SIZE="400")
    other = f"unix:{system.directory}/other.sock"
    await system.start_router(other, LOCALCODE_ROUTER_QUEUE_SIZE="400")
    for name in ("a", "b", "c"):
        await system.start_worker(name, slots=2 * SLOTS)
    await system.until_healthy("a", "b", "c")
    async with open_inference_client(
        [system.router_address, other], generate_timeout_seconds=120, status_timeout_seconds=5
    ) as client:
        asked = [request(f"tell {TOKENS} 0.05", name=f"r{number}") for number in range(120)]
        answers = asyncio.gather(*(answer(client, one) for one in asked))
        await asyncio.sleep(1.0)
        await system.router.kill()
        assert [text for text in await answers if text != EXPECTED] == []


@dataclass
class Served:
    """What became of one key's requests."""

    seconds: list[float] = field(default_factory=list)
    refusals: list[grpc.aio.AioRpcError] = field(default_factory=list)


async def test_overload_is_refused_and_a_greedy_key_starves_nobody(system: System) -> None:
    seconds_each, slots, lasts = 0.4, 4, 12.0
    await system.start(LOCALCODE_ROUTER_QUEUE_SIZE="12")
    for name in ("a", "b"):
        await system.start_worker(name, slots=slots)
    await system.until_healthy("a", "b")
    capacity = 2 * slots / seconds_each
    keys = {"greedy": 1.7 * capacity, "modest": 0.3 * capacity}
    served = {key: Served() for key in keys}
    tasks: list[asyncio.Task[None]] = []

    async def ask(key: str) -> None:
        began = time.monotonic()
        try:
            async for _ in system.inference.Generate(request(f"tell 4 {seconds_each / 4}", key_id=key), timeout=30):
                pass
            served[key].seconds.append(time.monotonic() - began)
        except grpc.aio.AioRpcError as error:
            served[key].refusals.append(error)

    async def load(key: str) -> None:
        deadline = time.monotonic() + lasts
        while time.monotonic() < deadline:
            tasks.append(asyncio.create_task(ask(key)))
            await asyncio.sleep(1 / keys[key])

    began = time.monotonic()
    await asyncio.gather(*(load(key) for key in keys))
    await asyncio.gather(*tasks)
    took = time.monotonic() - began
    refusals = [error for one in served.values() for error in one.refusals]
    assert refusals
    assert all(error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED for error in refusals)
    assert all(float(error_info(error).metadata["retry_after_seconds"]) >= 1 for error in refusals)
    assert max(seconds for one in served.values() for seconds in one.seconds) < 6 * seconds_each
    assert not served["modest"].refusals
    assert sorted(served["modest"].seconds)[len(served["modest"].seconds) // 2] < 3 * seconds_each
    work_seconds = sum(len(one.seconds) for one in served.values()) * seconds_each
    assert work_seconds >= 0.85 * 2 * slots * took  # the fake itself is late by some milliseconds each token
