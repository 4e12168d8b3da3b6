import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from services.cache.block_index import BlockIndex, MemoryBlockIndex
from services.cache.redis_block_index import RedisBlockIndex
from services.shared.errors import StoreUnavailable
from tests.fakes.block_index_contract import ROOT, BlockIndexContract, MakeBlockIndex, add, chain, names


class TestMemoryBlockIndex(BlockIndexContract):
    @pytest.fixture
    def make_index(self) -> MakeBlockIndex:
        return lambda clock: MemoryBlockIndex(clock=clock)


class TestRedisBlockIndex(BlockIndexContract):
    @pytest.fixture
    def redis(self) -> FakeAsyncRedis:
        return FakeAsyncRedis()

    @pytest.fixture
    def make_index(self, redis: FakeAsyncRedis) -> MakeBlockIndex:
        return lambda clock: RedisBlockIndex(redis, store_id="ab", clock=clock)

    async def test_every_key_carries_one_hash_tag(self, index: BlockIndex, redis: FakeAsyncRedis) -> None:
        blocks = chain("x", 2)
        await add(index, blocks)
        await index.pin(names(blocks), is_pinned=True)
        await index.lookup(ROOT, names(blocks), lease=None, counts=True)
        keys = await redis.keys("*")
        assert len(keys) == 6
        assert all(key.startswith(b"{localcode:ab}:") for key in keys)

    async def test_nothing_is_left_of_blocks_that_went(self, index: BlockIndex, redis: FakeAsyncRedis) -> None:
        blocks = chain("x", 3)
        await add(index, blocks)
        await index.lookup(ROOT, names(blocks), lease=None, counts=True)
        await index.claim(names(blocks)[::-1], is_eviction=False)
        await index.finish_removal(names(blocks))
        assert await redis.keys("*") == [b"{localcode:ab}:block_counts"]


async def test_every_call_says_that_redis_is_away() -> None:
    server = FakeServer()
    index = RedisBlockIndex(FakeAsyncRedis(server=server))
    server.connected = False
    (facts,) = chain("x", 1)
    for call in (
        index.add(facts, is_written=True),
        index.get([facts.hash]),
        index.lookup(ROOT, [facts.hash], lease=None, counts=True),
        index.use([facts.hash]),
        index.release("one", [facts.hash]),
        index.pin([facts.hash], is_pinned=True),
        index.page(b"", 10),
        index.claim([facts.hash], is_eviction=True),
        index.drop([facts.hash]),
        index.finish_removal([facts.hash]),
        index.latest(facts.fingerprint, 10),
        index.count_computed(1),
        index.counts(),
    ):
        with pytest.raises(StoreUnavailable):
            await call
