"""The index of stored KV blocks in Redis or Valkey, one script an operation.

All keys carry one hash tag, so that the scripts run on a Redis Cluster as well. What is stored are hashes, sizes and
times; token ids and text stand only in the sealed blobs.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.asyncio import Redis

from services.cache.block_index import (
    MAX_NEXT,
    REMOVAL_SECONDS,
    BlockCounts,
    BlockFacts,
    BlockLookup,
    Lease,
    StoredBlock,
)
from services.cache.redis_index import translated_errors
from services.shared.sealing import HASH_BYTES, BlockRole

_KEYS: Final = tuple(
    "{localcode}:" + name
    for name in (
        "blocks",  # hash -> size, tokens, role, seconds, fingerprint, parent
        "block_hits",  # hash -> uses
        "block_uses",  # hash, sorted by last use
        "block_pins",  # pinned hashes
        "block_children",  # parent and hash, in their order
        "block_leases",  # hash and lease id, sorted by end
        "block_guards",  # hash -> leases on it
        "block_removals",  # hash, sorted by when its removal is given up
        "block_counts",  # what has happened
    )
)
_COMMON: Final = """
local blocks, hits, uses, pins, children = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local leases, guards, removals, counts = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local now = ARGV[1]
local function release(member)
  if redis.call('ZREM', leases, member) == 1 then
    local hash = string.sub(member, 1, 32)
    if redis.call('HINCRBY', guards, hash, -1) <= 0 then redis.call('HDEL', guards, hash) end
  end
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now)) do release(member) end
local function children_of(parent, limit)
  local first, last = '[' .. parent, '[' .. parent .. string.rep('\\255', 32)
  local members = redis.call('ZRANGEBYLEX', children, first, last, 'LIMIT', 0, limit)
  for place, member in ipairs(members) do members[place] = string.sub(member, 33) end
  return members
end
local function stored(hash)
  return {hash, redis.call('HGET', blocks, hash), redis.call('HGET', hits, hash) or '0',
    redis.call('ZSCORE', uses, hash), redis.call('SISMEMBER', pins, hash), redis.call('HEXISTS', guards, hash)}
end
local function use(hash)
  redis.call('HINCRBY', hits, hash, 1)
  redis.call('ZADD', uses, now, hash)
  redis.call('HINCRBY', counts, 'hit_count', 1)
end
local function forget(hash)
  local entry = redis.call('HGET', blocks, hash)
  local size, tokens = string.match(entry, '^(%d+) (%d+) ')
  redis.call('HDEL', blocks, hash)
  redis.call('HDEL', hits, hash)
  redis.call('ZREM', uses, hash)
  redis.call('SREM', pins, hash)
  redis.call('ZREM', children, string.sub(entry, -32) .. hash)
  redis.call('HINCRBY', counts, 'size_bytes', -size)
  redis.call('HINCRBY', counts, 'token_count', -tokens)
  return size
end
"""
_ADD: Final = """
local hash, parent, entry, is_written = ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
redis.call('ZREMRANGEBYSCORE', removals, '-inf', now)
if redis.call('ZSCORE', removals, hash) then return 0 end
if redis.call('HSETNX', blocks, hash, entry) == 1 then
  local size, tokens = string.match(entry, '^(%d+) (%d+) ')
  redis.call('ZADD', uses, now, hash)
  redis.call('ZADD', children, 0, parent .. hash)
  redis.call('HINCRBY', counts, 'size_bytes', size)
  redis.call('HINCRBY', counts, 'token_count', tokens)
  if is_written then
    redis.call('HINCRBY', counts, 'written_bytes', size)
    redis.call('HINCRBY', counts, 'written_token_count', tokens)
  end
end
return 1
"""
_GET: Final = """
local found = {}
for place = 2, #ARGV do
  if redis.call('HEXISTS', blocks, ARGV[place]) == 1 then found[#found + 1] = stored(ARGV[place]) end
end
return found
"""
_LOOKUP: Final = """
local lease_id, ends_at, is_counted, limit, last = ARGV[2], ARGV[3], ARGV[4] == '1', tonumber(ARGV[5]), ARGV[6]
local prefix, following = {}, {}
for place = 7, #ARGV do
  if redis.call('HEXISTS', blocks, ARGV[place]) == 0 then break end
  prefix[#prefix + 1], last = ARGV[place], ARGV[place]
end
local names = children_of(last, -1)
local used = {}
for _, hash in ipairs(names) do used[hash] = tonumber(redis.call('ZSCORE', uses, hash)) end
table.sort(names, function(a, b) if used[a] == used[b] then return a < b end return used[a] > used[b] end)
for place = 1, math.min(limit, #names) do following[place] = names[place] end
if is_counted then
  for _, hash in ipairs(prefix) do use(hash) end
  redis.call('HINCRBY', counts, 'miss_count', #ARGV - 6 - #prefix)
end
local answer = {{}, {}}
for side, hashes in ipairs({prefix, following}) do
  for place, hash in ipairs(hashes) do
    if lease_id ~= '' and redis.call('ZADD', leases, ends_at, hash .. lease_id) == 1 then
      redis.call('HINCRBY', guards, hash, 1)
    end
    answer[side][place] = stored(hash)
  end
end
return answer
"""
_USE: Final = """
for place = 2, #ARGV do
  if redis.call('HEXISTS', blocks, ARGV[place]) == 1 then use(ARGV[place]) end
end
"""
_RELEASE: Final = """
for place = 3, #ARGV do release(ARGV[place] .. ARGV[2]) end
"""
_PIN: Final = """
local command, known = ARGV[2] == '1' and 'SADD' or 'SREM', 0
for place = 3, #ARGV do
  if redis.call('HEXISTS', blocks, ARGV[place]) == 1 then
    redis.call(command, pins, ARGV[place])
    known = known + 1
  end
end
return known
"""
_PAGE: Final = """
local after = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local members = redis.call('ZRANGEBYLEX', children, after, '+', 'LIMIT', 0, ARGV[3])
local found = {}
for place, member in ipairs(members) do found[place] = stored(string.sub(member, 33)) end
return {found, members[#members] or ''}
"""
_CLAIM: Final = """
local until_time, is_eviction, taken = ARGV[2], ARGV[3] == '1', {}
for place = 4, #ARGV do
  local hash = ARGV[place]
  if redis.call('HEXISTS', blocks, hash) == 1 and redis.call('SISMEMBER', pins, hash) == 0
      and redis.call('HEXISTS', guards, hash) == 0 and #children_of(hash, 1) == 0 then
    local size = forget(hash)
    redis.call('ZADD', removals, until_time, hash)
    taken[#taken + 1] = hash
    if is_eviction then
      redis.call('HINCRBY', counts, 'eviction_count', 1)
      redis.call('HINCRBY', counts, 'evicted_bytes', size)
    end
  end
end
return taken
"""
_DROP: Final = """
for place = 2, #ARGV do
  if redis.call('HEXISTS', blocks, ARGV[place]) == 1 then forget(ARGV[place]) end
end
"""
_FINISH: Final = """
for place = 2, #ARGV do redis.call('ZREM', removals, ARGV[place]) end
"""
_COUNTS: Final = """
return {redis.call('HLEN', blocks), redis.call('SCARD', pins), redis.call('HGETALL', counts)}
"""


class RedisBlockIndex:
    """An index that all cache services on one Redis share."""

    backend = "redis"

    def __init__(self, redis: "Redis", *, clock: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._clock = clock
        names = ("add", "get", "lookup", "use", "release", "pin", "page", "claim", "drop", "finish", "counts")
        bodies = (_ADD, _GET, _LOOKUP, _USE, _RELEASE, _PIN, _PAGE, _CLAIM, _DROP, _FINISH, _COUNTS)
        self._scripts = {name: redis.register_script(_COMMON + body) for name, body in zip(names, bodies, strict=True)}

    async def add(self, facts: BlockFacts, *, is_written: bool) -> bool:
        """Adds a block unless it is known."""
        return bool(await self._run("add", facts.hash, facts.parent, _packed(facts), int(is_written)))

    async def get(self, hashes: Sequence[bytes]) -> list[StoredBlock]:
        """Finds those of some blocks that are known."""
        return [_stored(found) for found in await self._run("get", *hashes)]

    async def lookup(self, root: bytes, hashes: Sequence[bytes], *, lease: Lease | None, counts: bool) -> BlockLookup:
        """Finds the longest known beginning of a chain, and what follows it."""
        guard = (lease.id, f"{lease.ends_at:.6f}") if lease else ("", "0")
        prefix, following = await self._run("lookup", *guard, int(counts), MAX_NEXT, root, *hashes)
        return BlockLookup(tuple(map(_stored, prefix)), tuple(map(_stored, following)))

    async def use(self, hashes: Sequence[bytes]) -> None:
        """Counts a use of blocks."""
        await self._run("use", *hashes)

    async def release(self, lease_id: str, hashes: Sequence[bytes]) -> None:
        """Ends the lease of some blocks."""
        await self._run("release", lease_id, *hashes)

    async def pin(self, hashes: Sequence[bytes], *, is_pinned: bool) -> int:
        """Keeps known blocks from being removed, or no longer."""
        return int(await self._run("pin", int(is_pinned), *hashes))

    async def page(self, after: bytes, limit: int) -> tuple[list[StoredBlock], bytes]:
        """Lists blocks, those of one parent together."""
        found, last = await self._run("page", after, limit)
        return [_stored(values) for values in found], last if len(found) == limit else b""

    async def claim(self, hashes: Sequence[bytes], *, is_eviction: bool) -> list[bytes]:
        """Takes blocks out of the index before their blobs are deleted."""
        until = f"{self._clock() + REMOVAL_SECONDS:.6f}"
        return list(await self._run("claim", until, int(is_eviction), *hashes))

    async def drop(self, hashes: Sequence[bytes]) -> None:
        """Forgets blocks whose blobs are gone or damaged."""
        await self._run("drop", *hashes)

    async def finish_removal(self, hashes: Sequence[bytes]) -> None:
        """Says that the blobs of claimed blocks are deleted."""
        await self._run("finish", *hashes)

    async def counts(self) -> BlockCounts:
        """Counts."""
        block_count, pinned_count, pairs = await self._run("counts")
        named = {pairs[place].decode(): int(pairs[place + 1]) for place in range(0, len(pairs), 2)}
        return BlockCounts(block_count=int(block_count), pinned_count=int(pinned_count), **named)

    async def _run(self, name: str, *arguments: bytes | str | int) -> Any:
        with translated_errors():
            return await self._scripts[name](keys=_KEYS, args=[f"{self._clock():.6f}", *arguments])


def _packed(facts: BlockFacts) -> bytes:
    head = f"{facts.size_bytes} {facts.token_count} {facts.role:d} {facts.recompute_seconds!r} "
    return head.encode() + facts.fingerprint + facts.parent


def _stored(values: Sequence[Any]) -> StoredBlock:
    name, entry, hit_count, used_at, is_pinned, is_leased = values
    size_bytes, token_count, role, recompute_seconds = entry[: -2 * HASH_BYTES].split()
    facts = BlockFacts(
        hash=name,
        parent=entry[-HASH_BYTES:],
        fingerprint=entry[-2 * HASH_BYTES : -HASH_BYTES],
        size_bytes=int(size_bytes),
        token_count=int(token_count),
        role=BlockRole(int(role)),
        recompute_seconds=float(recompute_seconds),
    )
    return StoredBlock(facts, int(hit_count), float(used_at), bool(is_pinned), bool(is_leased))
