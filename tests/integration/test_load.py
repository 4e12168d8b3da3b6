"""Many streams while workers and routers are killed, and more of them than the workers can take."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable
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


async def test_every_stream_is_whole_while_one_of_two_routers_is_killed(system: System, rounds: range) -> None:
    await system.start(LOCALCODE_ROUTER_QUEUE_SIZE="400")
    is_soak = len(rounds) > 1  # then workers are killed too, under all the streams
    stream_count = STREAMS if is_soak else 120
    other = f"unix:{system.directory}/other.sock"
    await system.start_router(other, LOCALCODE_ROUTER_QUEUE_SIZE="400")
    for name in ("a", "b", "c"):
        await system.start_worker(name, slots=2 * SLOTS)
    await system.until_healthy("a", "b", "c")
    async with open_inference_client(
        [system.router_address, other], generate_timeout_seconds=120, status_timeout_seconds=5
    ) as client:
        asked = [request(f"tell {TOKENS} 0.05", name=f"r{number}") for number in range(stream_count)]
        answers = asyncio.gather(*(answer(client, one) for one in asked))
        killing = asyncio.create_task(kill_workers(system, seconds=8)) if is_soak else None
        await asyncio.sleep(1.0)
        await system.router.kill()
        assert [text for text in await answers if text != EXPECTED] == []
        assert killing is None or await killing >= 2


@dataclass
class Served:
    """What became of one key's requests."""

    seconds: list[float] = field(default_factory=list)
    refusals: list[grpc.aio.AioRpcError] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)

    async def ask(self, system: System, asked: pb.GenerateRequest) -> None:
        began = time.monotonic()
        try:
            async for event in system.inference.Generate(asked, timeout=30):
                self.token_times += [time.monotonic()] * len(event.delta.token_ids)
            self.seconds.append(time.monotonic() - began)
        except grpc.aio.AioRpcError as error:
            self.refusals.append(error)

    async def ask_one_after_the_other(self, system: System, asked: pb.GenerateRequest, *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            await self.ask(system, asked)

    async def ask_at_a_rate(self, system: System, asked: pb.GenerateRequest, rate: float, *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            while time.monotonic() < deadline:
                tasks.create_task(self.ask(system, asked))
                await asyncio.sleep(1 / rate)


def tokens_per_second(served: Iterable[Served], began: float, *, after: float, until: float) -> float:
    """The rate within a stretch of a run, from `began` on, that leaves out its beginning and its end."""
    times = [at - began for one in served for at in one.token_times]
    return sum(after <= at < until for at in times) / (until - after)


async def test_overload_is_refused_costs_no_goodput_and_a_greedy_key_starves_nobody(system: System) -> None:
    seconds_each, slots = 0.4, 4
    asked = f"tell 8 {seconds_each / 8}"
    await system.start(LOCALCODE_ROUTER_QUEUE_SIZE="12")
    for name in ("a", "b"):
        await system.start_worker(name, slots=slots)
    await system.until_healthy("a", "b")
    began, full = time.monotonic(), Served()
    clients = [full.ask_one_after_the_other(system, request(asked), seconds=8) for _ in range(3 * slots)]
    await asyncio.gather(*clients)  # as many as there are slots, and half as many that wait: never too many
    assert not full.refusals
    most = tokens_per_second([full], began, after=2, until=8)

    capacity = 2 * slots / seconds_each
    rates = {"greedy": 1.7 * capacity, "modest": 0.3 * capacity}
    served = {key: Served() for key in rates}
    began = time.monotonic()
    await asyncio.gather(
        *(one.ask_at_a_rate(system, request(asked, key_id=key), rates[key], seconds=12) for key, one in served.items())
    )
    refusals = [error for one in served.values() for error in one.refusals]
    assert refusals
    assert all(error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED for error in refusals)
    assert all(float(error_info(error).metadata["retry_after_seconds"]) >= 1 for error in refusals)
    assert max(seconds for one in served.values() for seconds in one.seconds) < 6 * seconds_each
    assert not served["modest"].refusals
    assert sorted(served["modest"].seconds)[len(served["modest"].seconds) // 2] < 3 * seconds_each
    assert tokens_per_second(served.values(), began, after=2, until=12) >= 0.95 * most
    assert most >= 0.9 * 2 * slots * 8 / seconds_each  # a machine that is busy otherwise makes all of it late
