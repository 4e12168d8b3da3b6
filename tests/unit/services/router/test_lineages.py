import asyncio
from typing import Any

from localcode.cache.v1 import cache_pb2
from localcode.inference.v1 import inference_pb2 as pb
from services.router.lineages import MAX_HASHES, MAX_PENDING, Lineages, continues_conversation

HASHES = [b"\x01" * 32, b"\x02" * 32]


def test_a_conversation_goes_on_once_the_model_has_spoken() -> None:
    user, assistant = pb.Message(role=pb.ROLE_USER), pb.Message(role=pb.ROLE_ASSISTANT)
    assert not continues_conversation(pb.ChatPrompt(messages=[user]))
    assert continues_conversation(pb.ChatPrompt(messages=[user, assistant, user]))


async def test_workers_that_know_the_conversation_are_named(rig: Any) -> None:
    rig.cache.match = cache_pb2.LookupLineageResponse(matched_count=2, worker_ids=["b", "a"])
    assert await rig.lineages.knowing(HASHES) == {"b": 2, "a": 2}


async def test_a_cache_service_that_is_away_knows_nobody(rig: Any) -> None:
    rig.cache.is_away = True
    assert list(await rig.lineages.knowing(HASHES)) == []
    rig.lineages.record("a", HASHES, prompt_token_count=1)
    await asyncio.sleep(0.01)
    assert rig.cache.records == []


async def test_a_long_conversation_is_cut_to_what_the_cache_service_takes(rig: Any) -> None:
    rig.lineages.record("a", HASHES * MAX_HASHES, prompt_token_count=1)
    await rig.lineages.knowing(HASHES * MAX_HASHES)
    await asyncio.sleep(0.01)
    assert len(rig.cache.lookups[0].hashes) == MAX_HASHES
    assert len(rig.cache.records[0].hashes) == MAX_HASHES


async def test_prompts_without_messages_are_not_noted(rig: Any) -> None:
    rig.lineages.record("a", [], prompt_token_count=1)
    await asyncio.sleep(0.01)
    assert rig.cache.records == []


class HangingCache:
    def __init__(self) -> None:
        self.call_count = 0

    async def RecordLineage(self, request: Any, *, timeout: float) -> None:  # noqa: ASYNC109
        self.call_count += 1
        await asyncio.Event().wait()


async def test_notes_that_pile_up_are_dropped_and_closing_ends_them() -> None:
    cache = HangingCache()
    lineages = Lineages(cache)
    for _ in range(MAX_PENDING + 10):
        lineages.record("a", HASHES, prompt_token_count=1)
    await asyncio.sleep(0)
    assert cache.call_count == MAX_PENDING
    async with asyncio.timeout(1):
        await lineages.close()
