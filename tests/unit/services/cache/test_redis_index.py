import asyncio
import time

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from services.cache.index import LineageLimits
from services.cache.redis_index import RedisIndex, open_redis
from services.shared.errors import StoreUnavailable

LIMITS = LineageLimits(10, 60)
HASH = b"\x01" * 32


async def test_every_call_says_that_redis_is_away() -> None:
    server = FakeServer()
    index = RedisIndex(FakeAsyncRedis(server=server), LIMITS)
    server.connected = False
    for call in (
        index.ping(),
        index.register("a", b"A", lease_seconds=5),
        index.deregister("a"),
        index.registrations(),
        index.record("a", [HASH], prompt_token_count=1),
        index.lookup([HASH]),
        index.lineage_count(),
    ):
        with pytest.raises(StoreUnavailable):
            await call


async def test_calls_work_again_when_redis_is_back() -> None:
    server = FakeServer()
    index = RedisIndex(FakeAsyncRedis(server=server), LIMITS)
    server.connected = False
    with pytest.raises(StoreUnavailable):
        await index.register("a", b"A", lease_seconds=5)
    server.connected = True
    await index.register("a", b"A", lease_seconds=5)
    assert await index.registrations() == [b"A"]


async def test_a_redis_that_refuses_connections_fails_quickly() -> None:
    async with open_redis("redis://127.0.0.1:1/0", timeout_seconds=0.2) as redis:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await RedisIndex(redis, LIMITS).registrations()
        assert time.monotonic() - started < 1


async def test_a_redis_that_never_answers_fails_quickly() -> None:
    connections = []

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with open_redis(f"redis://127.0.0.1:{port}/0", timeout_seconds=0.1) as redis:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await RedisIndex(redis, LIMITS).registrations()
        assert time.monotonic() - started < 1
    assert connections
    for writer in connections:
        writer.close()
    server.close()


@pytest.mark.parametrize(
    "url", ["unix:///run/redis.sock", "unix:///run/redis.sock?db=2", "rediss://user:word@redis.example:6380/1"]
)
async def test_sockets_and_tls_are_understood(url: str) -> None:
    async with open_redis(url, timeout_seconds=0.1) as redis:
        kind = redis.connection_pool.connection_class.__name__
        assert kind == ("UnixDomainSocketConnection" if url.startswith("unix") else "SSLConnection")
