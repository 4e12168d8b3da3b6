"""The scripts of the block index in Redis: each sees all keys of a store, and the time as its first argument."""

from typing import Final

KEY_NAMES: Final = (
    "blocks",  # hash -> size, tokens, role, seconds, perhaps "whole", fingerprint, parent
    "block_hits",  # hash -> uses
    "block_uses",  # hash, sorted by last use
    "block_pins",  # pinned hashes
    "block_children",  # parent and hash, in their order
    "block_leases",  # hash and lease id, sorted by end
    "block_guards",  # hash -> leases on it
    "block_removals",  # hash, sorted by when its removal is given up
    "block_counts",  # what has happened
    "block_names",  # fingerprint and name -> hash
)
_COMMON: Final = """
local blocks, hits, uses, pins, children = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local leases, guards, removals, counts, names = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
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
local function following(parent, limit)
  local names, used, first = children_of(parent, -1), {}, {}
  for _, hash in ipairs(names) do used[hash] = tonumber(redis.call('ZSCORE', uses, hash)) end
  table.sort(names, function(a, b) if used[a] == used[b] then return a < b end return used[a] > used[b] end)
  for place = 1, math.min(limit, #names) do first[place] = names[place] end
  return first
end
local function guard(hash, lease_id, ends_at)
  if lease_id ~= '' and redis.call('ZADD', leases, ends_at, hash .. lease_id) == 1 then
    redis.call('HINCRBY', guards, hash, 1)
  end
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
local prefix = {}
for place = 7, #ARGV do
  if redis.call('HEXISTS', blocks, ARGV[place]) == 0 then break end
  prefix[#prefix + 1], last = ARGV[place], ARGV[place]
end
if is_counted then
  for _, hash in ipairs(prefix) do use(hash) end
  redis.call('HINCRBY', counts, 'miss_count', #ARGV - 6 - #prefix)
end
local answer = {{}, {}}
for side, hashes in ipairs({prefix, following(last, limit)}) do
  for place, hash in ipairs(hashes) do
    guard(hash, lease_id, ends_at)
    answer[side][place] = stored(hash)
  end
end
return answer
"""
_FIND: Final = """
local lease_id, ends_at, left, last_named = ARGV[2], ARGV[3], tonumber(ARGV[4]), 5 + tonumber(ARGV[5])
local found, is_found = {}, {}
local function note(hash)
  guard(hash, lease_id, ends_at)
  found[#found + 1], is_found[hash] = stored(hash), true
end
for place = 6, last_named do
  if not is_found[ARGV[place]] and redis.call('HEXISTS', blocks, ARGV[place]) == 1 then note(ARGV[place]) end
end
for place = #ARGV, last_named + 1, -1 do
  if left <= 0 then break end
  for _, hash in ipairs(following(ARGV[place], left)) do
    if not is_found[hash] then
      note(hash)
      left = left - 1
    end
  end
end
if #found == 0 then redis.call('HINCRBY', counts, 'miss_count', 1) end
return found
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
_NAME: Final = """
local name, hash = ARGV[2], ARGV[3]
if redis.call('HEXISTS', blocks, hash) == 0 then return 0 end
local old = redis.call('HGET', names, name)
redis.call('HSET', names, name, hash)
redis.call('SADD', pins, hash)
if old and old ~= hash then
  for _, other in ipairs(redis.call('HVALS', names)) do
    if other == old then return 1 end
  end
  redis.call('SREM', pins, old)
end
return 1
"""
_NAMED: Final = """
return redis.call('HGET', names, ARGV[2])
"""
_PAGE: Final = """
local after = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local members = redis.call('ZRANGEBYLEX', children, after, '+', 'LIMIT', 0, ARGV[3])
local found = {}
for place, member in ipairs(members) do found[place] = stored(string.sub(member, 33)) end
return {found, members[#members] or ''}
"""
_LATEST: Final = """
local fingerprint, limit, found = ARGV[2], tonumber(ARGV[3]), {}
for start = 0, 19000, 1000 do
  local names = redis.call('ZREVRANGE', uses, start, start + 999)
  for _, hash in ipairs(names) do
    if #found >= limit then return found end
    local entry = redis.call('HGET', blocks, hash)
    if entry and string.sub(entry, -64, -33) == fingerprint then found[#found + 1] = stored(hash) end
  end
  if #names < 1000 then break end
end
return found
"""
_COUNT_COMPUTED: Final = """
redis.call('HINCRBY', counts, 'computed_token_count', ARGV[2])
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
_NOTE_RECONCILED: Final = """
redis.call('HINCRBY', counts, 'reconciled_count', 1)
"""
_COUNTS: Final = """
return {redis.call('HLEN', blocks), redis.call('SCARD', pins), redis.call('HGETALL', counts)}
"""
SCRIPTS: Final = {
    "add": _COMMON + _ADD,
    "get": _COMMON + _GET,
    "lookup": _COMMON + _LOOKUP,
    "find": _COMMON + _FIND,
    "use": _COMMON + _USE,
    "release": _COMMON + _RELEASE,
    "pin": _COMMON + _PIN,
    "name": _COMMON + _NAME,
    "named": _COMMON + _NAMED,
    "page": _COMMON + _PAGE,
    "latest": _COMMON + _LATEST,
    "count_computed": _COMMON + _COUNT_COMPUTED,
    "claim": _COMMON + _CLAIM,
    "drop": _COMMON + _DROP,
    "finish": _COMMON + _FINISH,
    "note_reconciled": _COMMON + _NOTE_RECONCILED,
    "counts": _COMMON + _COUNTS,
}
