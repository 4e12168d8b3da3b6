"""What every index of the cache service must do; run against the one in memory, a fake Redis and a real Valkey."""

import asyncio
from collections.abc import Callable
from hashlib import sha256

import pytest

from services.cache.index import WORKERS_PER_LINEAGE, Index, LineageLimits, LineageMatch

MakeIndex = Callable[[LineageLimits, Callable[[], float]], Index]
LIMITS = LineageLimits(max_count=1000, ttl_seconds=60)


def hashes(name: str, count: int) -> list[bytes]:
    return [sha256(f"{name}-{index}".encode()).digest() for index in range(count)]


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class IndexContract:
    """Subclasses provide the fixture `make_index`."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def index(self, make_index: MakeIndex, clock: Clock) -> Index:
        return make_index(LIMITS, clock)

    async def test_workers_are_listed_by_id(self, index: Index) -> None:
        await index.register("b", b"\x00B", lease_seconds=5)
        await index.register("a", b"A\xff", lease_seconds=5)
        assert await index.registrations() == [b"A\xff", b"\x00B"]

    async def test_registering_again_replaces_the_registration(self, index: Index) -> None:
        await index.register("a", b"old", lease_seconds=5)
        await index.register("a", b"new", lease_seconds=5)
        assert await index.registrations() == [b"new"]

    async def test_a_worker_disappears_when_its_lease_ends(self, index: Index) -> None:
        await index.register("a", b"A", lease_seconds=0.1)
        await index.register("b", b"B", lease_seconds=5)
        await asyncio.sleep(0.15)
        assert await index.registrations() == [b"B"]

    async def test_a_worker_whose_lease_ended_can_come_back(self, index: Index) -> None:
        await index.register("a", b"A", lease_seconds=0.05)
        await asyncio.sleep(0.1)
        assert await index.registrations() == []
        await index.register("a", b"A", lease_seconds=5)
        assert await index.registrations() == [b"A"]

    async def test_renewing_extends_the_lease(self, index: Index) -> None:
        await index.register("a", b"A", lease_seconds=0.1)
        await index.register("a", b"A", lease_seconds=5)
        await asyncio.sleep(0.15)
        assert await index.registrations() == [b"A"]

    async def test_a_worker_that_leaves_is_gone_at_once(self, index: Index) -> None:
        await index.register("a", b"A", lease_seconds=5)
        await index.deregister("a")
        assert await index.registrations() == []

    async def test_removing_an_unknown_worker_is_no_error(self, index: Index) -> None:
        await index.deregister("nobody")
        assert await index.registrations() == []

    async def test_an_unknown_conversation_matches_nothing(self, index: Index) -> None:
        assert await index.lookup(hashes("x", 3)) == LineageMatch()
        assert await index.lookup([]) == LineageMatch()

    async def test_a_match_ends_at_the_last_known_hash(self, index: Index) -> None:
        await index.record("a", hashes("x", 3), prompt_token_count=70)
        assert await index.lookup(hashes("x", 5)) == LineageMatch(3, ("a",), 70)

    async def test_conversations_that_share_a_beginning_match_it(self, index: Index) -> None:
        root = hashes("root", 1)
        await index.record("a", root + hashes("x", 3), prompt_token_count=70)
        assert await index.lookup(root + hashes("y", 3)) == LineageMatch(1, ("a",), 70)

    async def test_workers_are_named_latest_first_and_once(self, index: Index) -> None:
        for worker_id in ("a", "b", "a"):
            await index.record(worker_id, hashes("x", 2), prompt_token_count=10)
        assert (await index.lookup(hashes("x", 2))).worker_ids == ("a", "b")

    async def test_only_the_latest_workers_are_kept(self, index: Index) -> None:
        for number in range(WORKERS_PER_LINEAGE + 2):
            await index.record(f"w{number}", hashes("x", 1), prompt_token_count=10)
        known = (await index.lookup(hashes("x", 1))).worker_ids
        assert known == tuple(f"w{number}" for number in range(WORKERS_PER_LINEAGE + 1, 1, -1))

    async def test_the_longest_prompt_is_remembered(self, index: Index) -> None:
        await index.record("a", hashes("x", 2), prompt_token_count=90)
        await index.record("a", hashes("x", 1), prompt_token_count=50)
        assert (await index.lookup(hashes("x", 1))).prompt_token_count == 90

    async def test_a_lineage_is_forgotten_after_its_time(self, index: Index, clock: Clock) -> None:
        await index.record("a", hashes("x", 2), prompt_token_count=10)
        clock.now += LIMITS.ttl_seconds + 1
        assert await index.lookup(hashes("x", 2)) == LineageMatch()
        assert await index.lineage_count() == 0

    async def test_a_lineage_that_is_seen_again_lives_on(self, index: Index, clock: Clock) -> None:
        for _ in range(3):
            await index.record("a", hashes("x", 2), prompt_token_count=10)
            clock.now += LIMITS.ttl_seconds - 1
        assert (await index.lookup(hashes("x", 2))).matched_count == 2

    async def test_the_count_of_lineages_is_bounded_and_the_oldest_go_first(
        self, make_index: MakeIndex, clock: Clock
    ) -> None:
        index = make_index(LineageLimits(max_count=5, ttl_seconds=60), clock)
        for name in ("x", "y"):
            await index.record("a", hashes(name, 4), prompt_token_count=10)
            clock.now += 1
        assert await index.lineage_count() == 5
        assert (await index.lookup(hashes("y", 4))).matched_count == 4
        assert (await index.lookup(hashes("x", 4))).matched_count == 1  # ends of conversations go before beginnings

    async def test_as_many_hashes_as_a_call_may_have_are_taken(self, make_index: MakeIndex, clock: Clock) -> None:
        index = make_index(LineageLimits(max_count=10_000, ttl_seconds=60), clock)
        await index.record("a", hashes("x", 4096), prompt_token_count=1_000_000)
        assert await index.lookup(hashes("x", 4096)) == LineageMatch(4096, ("a",), 1_000_000)
