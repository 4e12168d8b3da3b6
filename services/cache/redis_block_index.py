"""The index of stored KV blocks in Redis or Valkey, one script an operation.

All keys of a store carry one hash tag, so that the scripts run on a Redis Cluster as well. What is stored are hashes,
sizes and times; token ids and text stand only in the sealed blobs.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from services.cache.block_index import (
    MAX_LATEST,
    MAX_NEXT,
    REMOVAL_SECONDS,
    BlockCounts,
    BlockFacts,
    BlockLookup,
    Lease,
    StoredBlock,
)
from services.cache.redis_block_scripts import KEY_NAMES, SCRIPTS
from services.cache.redis_index import AnyRedis, translated_errors
from services.shared.sealing import HASH_BYTES, BlockRole

_WHOLE: Final = "whole"


class RedisBlockIndex:
    """An index that all cache services of one store share; `store_id` tells it from other stores on the same Redis."""

    backend = "redis"

    def __init__(self, redis: AnyRedis, *, store_id: str = "", clock: Callable[[], float] = time.time) -> None:
        self._redis = redis
        tag = f"localcode:{store_id}" if store_id else "localcode"
        self._keys = [f"{{{tag}}}:{name}" for name in KEY_NAMES]
        self._clock = clock
        self._scripts = {name: redis.register_script(script) for name, script in SCRIPTS.items()}

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

    async def find(
        self, hashes: Sequence[bytes], *, parents: Sequence[bytes], lease: Lease | None
    ) -> list[StoredBlock]:
        """Finds blocks by name, then what follows any of some parents."""
        guard = (lease.id, f"{lease.ends_at:.6f}") if lease else ("", "0")
        found = await self._run("find", *guard, MAX_NEXT, len(hashes), *hashes, *parents)
        return [_stored(values) for values in found]

    async def use(self, hashes: Sequence[bytes]) -> None:
        """Counts a use of blocks."""
        await self._run("use", *hashes)

    async def release(self, lease_id: str, hashes: Sequence[bytes]) -> None:
        """Ends the lease of some blocks."""
        await self._run("release", lease_id, *hashes)

    async def pin(self, hashes: Sequence[bytes], *, is_pinned: bool) -> int:
        """Keeps known blocks from being removed, or no longer."""
        return int(await self._run("pin", int(is_pinned), *hashes))

    async def name(self, name: bytes, block_hash: bytes) -> bool:
        """Gives a known block a name and pins it."""
        return bool(await self._run("name", name, block_hash))

    async def named(self, name: bytes) -> bytes | None:
        """Finds the block that has a name."""
        found = await self._run("named", name)
        return None if found is None else bytes(found)

    async def page(self, after: bytes, limit: int) -> tuple[list[StoredBlock], bytes]:
        """Lists blocks, those of one parent together."""
        found, last = await self._run("page", after, limit)
        return [_stored(values) for values in found], last if len(found) == limit else b""

    async def latest(self, fingerprint: bytes, limit: int) -> list[StoredBlock]:
        """Lists blocks of a fingerprint, the last used first."""
        found = [_stored(values) for values in await self._run("latest", fingerprint, min(limit, MAX_LATEST))]
        return sorted(found, key=lambda block: (-block.used_at, block.facts.hash))  # Redis sorts equals the other way

    async def count_computed(self, token_count: int) -> None:
        """Counts tokens that a worker has computed."""
        await self._run("count_computed", token_count)

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

    async def note_reconciled(self) -> None:
        """Counts a comparison with the blobs."""
        await self._run("note_reconciled")

    async def counts(self) -> BlockCounts:
        """Counts."""
        block_count, pinned_count, pairs = await self._run("counts")
        named = {pairs[place].decode(): int(pairs[place + 1]) for place in range(0, len(pairs), 2)}
        return BlockCounts(block_count=int(block_count), pinned_count=int(pinned_count), **named)

    async def _run(self, name: str, *arguments: bytes | str | int) -> Any:
        with translated_errors():
            return await self._scripts[name](keys=self._keys, args=[f"{self._clock():.6f}", *arguments])


def _packed(facts: BlockFacts) -> bytes:
    mark = f"{_WHOLE} " if facts.is_whole else ""
    head = f"{facts.size_bytes} {facts.token_count} {facts.role:d} {facts.recompute_seconds!r} {mark}"
    return head.encode() + facts.fingerprint + facts.parent


def _stored(values: Sequence[Any]) -> StoredBlock:
    name, entry, hit_count, used_at, is_pinned, is_leased = values
    size_bytes, token_count, role, recompute_seconds, *marks = entry[: -2 * HASH_BYTES].split()
    facts = BlockFacts(
        hash=name,
        parent=entry[-HASH_BYTES:],
        fingerprint=entry[-2 * HASH_BYTES : -HASH_BYTES],
        size_bytes=int(size_bytes),
        token_count=int(token_count),
        role=BlockRole(int(role)),
        recompute_seconds=float(recompute_seconds),
        is_whole=_WHOLE.encode() in marks,
    )
    return StoredBlock(facts, int(hit_count), float(used_at), bool(is_pinned), bool(is_leased))
