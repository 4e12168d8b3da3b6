import asyncio
from contextlib import AsyncExitStack

import pytest

from services.shared.errors import Overloaded
from services.upstream.places import Places


async def test_a_request_waits_until_a_place_is_free() -> None:
    places = Places(1, queue_size=1)
    async with AsyncExitStack() as second:
        async with places.taken():
            entering = asyncio.create_task(second.enter_async_context(places.taken()))
            await asyncio.sleep(0)
            assert (places.running_count, places.waiting_count) == (1, 1)
        await entering
        assert (places.running_count, places.waiting_count) == (1, 0)
    assert (places.running_count, places.waiting_count) == (0, 0)


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    places = Places(1, queue_size=0)
    async with places.taken():
        with pytest.raises(Overloaded) as refused:
            await AsyncExitStack().enter_async_context(places.taken())
    assert refused.value.retry_after_seconds is not None
    async with places.taken():
        assert places.running_count == 1


async def test_a_cancelled_wait_leaves_the_queue() -> None:
    places = Places(1, queue_size=1)
    async with places.taken():
        waiting = asyncio.create_task(AsyncExitStack().enter_async_context(places.taken()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert places.waiting_count == 0
    async with places.taken():
        assert places.running_count == 1
