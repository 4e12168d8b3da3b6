from collections.abc import Callable

import pytest
from fakeredis import FakeAsyncRedis

from services.cache.index import LineageLimits, MemoryIndex
from services.cache.redis_index import RedisIndex
from tests.fakes.index_contract import IndexContract, MakeIndex


class TestMemoryIndex(IndexContract):
    @pytest.fixture
    def make_index(self) -> MakeIndex:
        return lambda limits, clock: MemoryIndex(limits, clock=clock)


class TestRedisIndex(IndexContract):
    @pytest.fixture
    def redis(self) -> FakeAsyncRedis:
        return FakeAsyncRedis()

    @pytest.fixture
    def make_index(self, redis: FakeAsyncRedis) -> MakeIndex:
        def make(limits: LineageLimits, clock: Callable[[], float]) -> RedisIndex:
            return RedisIndex(redis, limits, clock=clock)

        return make

    async def test_every_key_carries_one_hash_tag(self, make_index: MakeIndex, redis: FakeAsyncRedis, clock) -> None:
        index = make_index(LineageLimits(10, 60), clock)
        await index.register("a", b"A", lease_seconds=5)
        await index.record("a", [b"\x01" * 32], prompt_token_count=1)
        keys = await redis.keys("*")
        assert len(keys) == 4
        assert all(key.startswith(b"{localcode}:") for key in keys)

    async def test_ids_of_vanished_workers_do_not_pile_up(
        self, make_index: MakeIndex, redis: FakeAsyncRedis, clock
    ) -> None:
        index = make_index(LineageLimits(10, 60), clock)
        await index.register("a", b"A", lease_seconds=5)
        await redis.delete("{localcode}:worker:a")
        await index.registrations()
        assert await redis.smembers("{localcode}:workers") == set()
