"""The index in Redis or Valkey.

All keys carry one hash tag, so that scripts and transactions over several of them run on a Redis Cluster as well.
Values are worker registrations and hashes; no text is ever stored.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Union

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from services.cache.index import WORKERS_PER_LINEAGE, LineageLimits, LineageMatch
from services.shared.errors import StoreUnavailable

_WORKER: Final = "{localcode}:worker:"
_WORKER_IDS: Final = "{localcode}:workers"
_LINEAGES: Final = "{localcode}:lineages"  # hash -> when it ends, its longest prompt, its workers
_LINEAGE_ENDS: Final = "{localcode}:lineage_ends"  # hash, sorted by when it ends

# A worker may renew its lease between our look at it and this: only ids whose key is still missing are removed.
_FORGET_WORKERS: Final = """
for index = 2, #KEYS do
  if redis.call('EXISTS', KEYS[index]) == 0 then redis.call('SREM', KEYS[1], ARGV[index - 1]) end
end
"""
_RECORD: Final = """
local lineages, ends = KEYS[1], KEYS[2]
local worker_id, tokens, now, ends_at = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local max_workers, max_lineages = tonumber(ARGV[5]), tonumber(ARGV[6])
for index = 7, #ARGV do
  local hash = ARGV[index]
  local old = redis.call('HGET', lineages, hash)
  local longest, workers = tokens, {worker_id}
  if old then
    local lines = {}
    for line in string.gmatch(old, '[^\\n]+') do lines[#lines + 1] = line end
    longest = math.max(longest, tonumber(lines[2]))
    for place = 3, #lines do
      if lines[place] ~= worker_id and #workers < max_workers then workers[#workers + 1] = lines[place] end
    end
  end
  redis.call('HSET', lineages, hash, ends_at .. '\\n' .. string.format('%d', longest) .. '\\n'
    .. table.concat(workers, '\\n'))
  redis.call('ZADD', ends, string.format('%.6f', tonumber(ends_at) - (index - 7) / 1000000), hash)
end
local old = redis.call('ZRANGEBYSCORE', ends, '-inf', now)
local surplus = redis.call('ZCARD', ends) - #old - max_lineages
if surplus > 0 then
  for _, hash in ipairs(redis.call('ZRANGE', ends, #old, #old + surplus - 1)) do old[#old + 1] = hash end
end
for _, hash in ipairs(old) do
  redis.call('HDEL', lineages, hash)
  redis.call('ZREM', ends, hash)
end
"""


AnyRedis = Union["Redis", RedisCluster]


@asynccontextmanager
async def open_redis(url: str, *, timeout_seconds: float, is_cluster: bool = False) -> AsyncIterator[AnyRedis]:
    """Opens a client that gives up soon, and closes it when left. It connects on first use and again after a loss.

    Of a Redis Cluster, the URL names any node.
    """
    kind: Any = RedisCluster if is_cluster else Redis
    client = kind.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 1),  # a pooled connection that a restart of Redis cut is replaced at once
    )
    try:
        yield client
    finally:
        await client.aclose()


class RedisIndex:
    """An index that all cache services on one Redis share."""

    backend = "redis"

    def __init__(self, redis: AnyRedis, limits: LineageLimits, *, clock: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._limits = limits
        self._clock = clock
        self._forget_workers = redis.register_script(_FORGET_WORKERS)
        self._record = redis.register_script(_RECORD)

    async def ping(self) -> None:
        """Raises `StoreUnavailable` if Redis is away."""
        with translated_errors():
            await self._redis.ping()

    async def register(self, worker_id: str, registration: bytes, *, lease_seconds: float) -> None:
        """Adds a worker, or replaces its registration and renews its lease."""
        with translated_errors():
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.set(_WORKER + worker_id, registration, px=max(1, round(lease_seconds * 1000)))
                pipeline.sadd(_WORKER_IDS, worker_id)
                await pipeline.execute()

    async def deregister(self, worker_id: str) -> None:
        """Removes a worker, if it is there."""
        with translated_errors():
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.delete(_WORKER + worker_id)
                pipeline.srem(_WORKER_IDS, worker_id)
                await pipeline.execute()

    async def registrations(self) -> list[bytes]:
        """Lists the registrations whose lease has not ended, by worker id."""
        with translated_errors():
            members: Any = await self._redis.smembers(_WORKER_IDS)
            ids = sorted(_text(member) for member in members)
            values: list[Any] = await self._redis.mget([_WORKER + worker_id for worker_id in ids]) if ids else []
            gone = [worker_id for worker_id, value in zip(ids, values, strict=True) if value is None]
            if gone:
                await self._forget_workers(keys=[_WORKER_IDS, *(_WORKER + worker_id for worker_id in gone)], args=gone)
        return [value for value in values if value is not None]

    async def record(self, worker_id: str, hashes: Sequence[bytes], *, prompt_token_count: int) -> None:
        """Notes that a worker computed a conversation."""
        now = self._clock()
        times = [f"{now:.6f}", f"{now + self._limits.ttl_seconds:.6f}"]
        bounds = [WORKERS_PER_LINEAGE, self._limits.max_count]
        with translated_errors():
            await self._record(
                keys=[_LINEAGES, _LINEAGE_ENDS], args=[worker_id, prompt_token_count, *times, *bounds, *hashes]
            )

    async def lookup(self, hashes: Sequence[bytes]) -> LineageMatch:
        """Finds the longest known beginning of a conversation."""
        if not hashes:
            return LineageMatch()
        with translated_errors():
            values: Any = await self._redis.hmget(_LINEAGES, list(hashes))
        now = self._clock()
        for count in range(len(hashes), 0, -1):
            if (value := values[count - 1]) is not None:
                ends_at, longest, *worker_ids = _text(value).split("\n")
                if float(ends_at) > now:
                    return LineageMatch(count, tuple(worker_ids), int(longest))
        return LineageMatch()

    async def lineage_count(self) -> int:
        """Counts the known lineage hashes."""
        with translated_errors():
            count: Any = await self._redis.zcount(_LINEAGE_ENDS, f"({self._clock():.6f}", "+inf")
        return int(count)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turns what Redis and its connection may raise into `StoreUnavailable`."""
    try:
        yield
    except (RedisError, RedisClusterException, OSError) as error:
        raise StoreUnavailable(f"Redis does not answer ({type(error).__name__}).", retry_after_seconds=1.0) from error


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
