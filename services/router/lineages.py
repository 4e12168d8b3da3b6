"""Which workers know a conversation, as the cache service remembers it. A hint only: a failure costs nothing else."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import grpc

from localcode.cache.v1 import cache_pb2
from localcode.inference.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from localcode.cache.v1.cache_pb2_grpc import CacheServiceAsyncStub

MAX_HASHES: Final = 4096
MAX_PENDING: Final = 64
LOOKUP_TIMEOUT_SECONDS: Final = 0.05
_RECORD_TIMEOUT_SECONDS: Final = 1.0


def continues_conversation(chat: pb.ChatPrompt) -> bool:
    """Says whether a model has answered in this conversation before.

    Only then is a worker worth preferring: first requests share their system prompt with everyone, and would all end
    at the same worker.
    """
    return any(message.role == pb.ROLE_ASSISTANT for message in chat.messages)


class Lineages:
    """Looks conversations up and notes them."""

    def __init__(self, cache: "CacheServiceAsyncStub") -> None:
        self._cache = cache
        self._pending: set[asyncio.Task[None]] = set()

    async def knowing(self, hashes: Sequence[bytes]) -> dict[str, int]:
        """Names the workers that know more of a conversation than its system prompt, with the hashes they know."""
        request = cache_pb2.LookupLineageRequest(hashes=hashes[:MAX_HASHES])
        try:
            match = await self._cache.LookupLineage(request, timeout=LOOKUP_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError:
            return {}
        return dict.fromkeys(match.worker_ids, match.matched_count) if match.matched_count > 1 else {}

    def record(self, worker_id: str, hashes: Sequence[bytes], *, prompt_token_count: int) -> None:
        """Notes in the background that a worker computed a conversation; drops it if too many are on their way."""
        if not hashes or len(self._pending) >= MAX_PENDING:
            return
        request = cache_pb2.RecordLineageRequest(
            worker_id=worker_id, hashes=hashes[:MAX_HASHES], prompt_token_count=prompt_token_count
        )
        task = asyncio.create_task(self._record(request))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def close(self) -> None:
        """Drops the notes that are still on their way."""
        pending = list(self._pending)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _record(self, request: cache_pb2.RecordLineageRequest) -> None:
        try:
            await self._cache.RecordLineage(request, timeout=_RECORD_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError:
            return
