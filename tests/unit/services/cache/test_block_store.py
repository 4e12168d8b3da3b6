import asyncio
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.cache.block_index import Lease
from services.cache.block_store import BlockStore
from services.cache.verify import Findings, has_lost, reconcile, verify
from services.shared.blob_directory import blob_path, write_blob
from services.shared.errors import BlockBusy, BlockNotFound, InvalidRequest, StoreFull, StoreUnavailable
from services.shared.keyring import Keyring
from services.shared.sealing import BlockRole
from tests.fakes.block_store import FINGERPRINT, SEALED_BYTES, Plain, make_store, plain_chain


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return make_store(tmp_path / "kv")


async def put_all(store: BlockStore, blocks: list[Plain]) -> None:
    for block in blocks:
        await store.put(block.hash, block.sealed())


async def stored(store: BlockStore, blocks: list[Plain]) -> list[int]:
    """Which of the blocks are in the index; it must agree with the blobs."""
    indexed = [bool(await store.index.get([block.hash])) for block in blocks]
    assert indexed == [await store.blobs.size(block.hash) is not None for block in blocks]
    return [place for place, is_there in enumerate(indexed) if is_there]


async def findings_of(store: BlockStore, **options: bool) -> Findings:
    return [findings async for findings in verify(store, **options)][-1]


async def test_what_a_block_is_stands_in_its_header(store: BlockStore) -> None:
    (block,) = plain_chain(1, 1, role=BlockRole.SYSTEM)
    await store.put(block.hash, block.sealed())
    (found,) = await store.index.get([block.hash])
    facts = found.facts
    assert (facts.parent, facts.fingerprint, facts.token_count) == (FINGERPRINT, FINGERPRINT, 256)
    assert (facts.role, facts.recompute_seconds, facts.size_bytes) == (BlockRole.SYSTEM, 2.5, SEALED_BYTES)


async def test_a_block_written_into_the_directory_is_committed(store: BlockStore) -> None:
    (block,) = plain_chain(1, 1)
    assert store.blobs.directory is not None
    write_blob(store.blobs.directory, block.hash, block.sealed())
    await store.commit(block.hash)
    await store.commit(block.hash)
    assert await stored(store, [block]) == [0]
    assert (await store.index.counts()).written_bytes == SEALED_BYTES


async def test_a_header_of_any_length_is_read(store: BlockStore) -> None:
    (block,) = plain_chain(1, 1, token_count=5000)
    assert store.blobs.directory is not None
    write_blob(store.blobs.directory, block.hash, block.sealed())
    await store.commit(block.hash)
    assert (await store.index.get([block.hash]))[0].facts.token_count == 5000


@pytest.mark.parametrize("damage", ["flipped", "truncated", "key", "name", "nothing"])
async def test_what_is_no_valid_block_is_refused_and_not_kept(store: BlockStore, damage: str) -> None:
    block, other = plain_chain(1, 2)
    blob = bytes(block.sealed(Keyring([bytes(32)]) if damage == "key" else store._keyring))
    blob = {
        "flipped": blob[:90] + bytes([blob[90] ^ 1]) + blob[91:],
        "truncated": blob[:-1],
        "name": bytes(other.sealed()),
        "nothing": b"",
    }.get(damage, blob)
    with pytest.raises(InvalidRequest):
        await store.put(block.hash, blob)
    assert store.blobs.directory is not None
    write_blob(store.blobs.directory, block.hash, blob)
    with pytest.raises(InvalidRequest):
        await store.commit(block.hash)
    assert await stored(store, [block]) == []


async def test_a_block_that_is_not_there_cannot_be_committed_or_read(store: BlockStore) -> None:
    with pytest.raises(BlockNotFound):
        await store.commit(bytes(32))
    with pytest.raises(BlockNotFound):
        await store.read(bytes(32))


async def test_the_budget_is_kept_by_giving_up_what_is_worth_least(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=SEALED_BYTES * 53 // 10)
    system = plain_chain(1, 2, role=BlockRole.SYSTEM)
    talk = plain_chain(2, 2, parent=system[-1].hash)
    ended = plain_chain(3, 1, parent=system[-1].hash, role=BlockRole.ENDED)
    await put_all(store, system + talk + ended)
    new = plain_chain(4, 1)
    await put_all(store, new)
    assert await stored(store, system + talk + ended + new) == [0, 1, 2, 3, 5]
    counts = await store.index.counts()
    assert (counts.eviction_count, counts.evicted_bytes) == (1, SEALED_BYTES)


async def test_a_conversation_that_is_stored_leaves_no_gap_in_itself(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=SEALED_BYTES * 43 // 10)
    system = plain_chain(1, 2, role=BlockRole.SYSTEM)
    await put_all(store, system)
    for _ in range(5):
        await store.index.use([block.hash for block in system])
    talk = plain_chain(2, 4)  # each of its blocks is worth less than what was used so often
    await put_all(store, talk)
    assert await stored(store, system + talk) == [2, 3, 4, 5]


async def test_a_conversation_that_does_not_fit_is_stored_up_to_there(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=SEALED_BYTES * 43 // 10)
    talk = plain_chain(1, 8)
    await put_all(store, talk[:4])
    for block in talk[4:6]:
        with pytest.raises(StoreFull):
            await store.put(block.hash, block.sealed())
    for block in talk[6:]:
        write_blob(tmp_path, block.hash, block.sealed())
        with pytest.raises(StoreFull):
            await store.commit(block.hash)
    assert await stored(store, talk) == [0, 1, 2, 3]


async def test_nothing_goes_for_a_block_that_would_not_fit_even_so(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=SEALED_BYTES * 43 // 10)
    pinned, other = plain_chain(1, 3), plain_chain(2, 1)
    await put_all(store, pinned + other)
    await store.index.pin([pinned[-1].hash], is_pinned=True)
    store.limits = replace(store.limits, budget=replace(store.limits.budget, max_bytes=SEALED_BYTES * 33 // 10))
    new = plain_chain(3, 1)
    with pytest.raises(StoreFull):
        await store.put(new[0].hash, new[0].sealed())
    assert await stored(store, pinned + other + new) == [0, 1, 2, 3]


async def test_a_full_store_takes_a_whole_sequence_though_its_parent_is_no_block(tmp_path: Path) -> None:
    old, new, behind_gap = (plain_chain(seed, 1, parent=sha256(bytes([seed])).digest())[0] for seed in range(3))
    old, new = (replace(block, header=replace(block.header, is_whole=True)) for block in (old, new))
    store = make_store(tmp_path, max_bytes=SEALED_BYTES)
    for block in (old, new):
        await store.put(block.hash, block.sealed())
    with pytest.raises(StoreFull):
        await store.put(behind_gap.hash, behind_gap.sealed())
    assert [block.facts.hash for block in await store.all_blocks()] == [new.hash]


async def test_a_committed_block_makes_room_too(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=SEALED_BYTES * 23 // 10)
    blocks = plain_chain(1, 2) + plain_chain(2, 1)
    for block in blocks:
        write_blob(tmp_path, block.hash, block.sealed())
        await store.commit(block.hash)
    assert await stored(store, blocks) == [0, 2]


async def test_a_store_full_of_guarded_blocks_refuses_and_says_so_once(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=2 * SEALED_BYTES)
    blocks = plain_chain(1, 2)
    await put_all(store, blocks)
    await store.index.pin([blocks[1].hash], is_pinned=True)
    new = plain_chain(2, 3)
    with capture_logs() as logs:
        for block in new[:2]:
            with pytest.raises(StoreFull):
                await store.put(block.hash, block.sealed())
        write_blob(tmp_path, new[2].hash, new[2].sealed())
        with pytest.raises(StoreFull):
            await store.commit(new[2].hash)
    assert [entry["event"] for entry in logs] == ["kv_store_is_full"]
    assert await stored(store, blocks + new) == [0, 1]


async def test_a_leased_block_is_not_evicted(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=2 * SEALED_BYTES)
    leased, other, new = (plain_chain(seed, 1) for seed in (1, 2, 3))
    await put_all(store, leased + other)
    await store.index.lookup(FINGERPRINT, [leased[0].hash], lease=Lease("a", 2e9), counts=False)
    await put_all(store, new)
    assert await stored(store, leased + other + new) == [0, 2]


async def test_disk_space_that_must_stay_free_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path)
    blocks = plain_chain(1, 2)
    await put_all(store, blocks)
    store.limits = replace(store.limits, budget=replace(store.limits.budget, min_free_bytes=10_000))

    async def free_bytes() -> int:
        return 9_000

    monkeypatch.setattr(store.blobs, "free_bytes", free_bytes)
    new = plain_chain(2, 2)
    await put_all(store, new[:1])
    assert await stored(store, blocks + new) == [2]
    await store.index.pin([new[0].hash], is_pinned=True)
    with pytest.raises(StoreFull):
        await put_all(store, new[1:])


async def test_pruning_keeps_what_was_asked_to_be_kept(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    blocks = plain_chain(1, 4)
    await put_all(store, blocks)
    assert len(await store.prune(max_bytes=3 * SEALED_BYTES)) == 1
    assert await stored(store, blocks) == [0, 1, 2]
    assert await store.prune(idle_seconds=3600) == []
    assert await store.prune(fingerprint=bytes(32)) == []
    await store.index.pin([blocks[0].hash], is_pinned=True)
    assert len(await store.prune()) == 2
    assert await stored(store, blocks) == [0]


async def test_blocks_of_no_use_for_too_long_go(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_idle_seconds=100)
    blocks = plain_chain(1, 2)
    await put_all(store, blocks)
    await store.evict()
    assert await stored(store, blocks) == [0, 1]
    store._clock = lambda: 4e9
    await store.evict()
    assert await stored(store, blocks) == []


async def test_ten_conversations_over_one_prompt_store_it_once(store: BlockStore) -> None:
    prompt = plain_chain(0, 28, role=BlockRole.SYSTEM)
    tails = [plain_chain(seed, 1, parent=prompt[-1].hash, token_count=99)[0] for seed in range(1, 11)]
    for tail in tails:
        await put_all(store, [*prompt, tail])
    counts = await store.index.counts()
    assert counts.block_count == 38
    assert counts.size_bytes == counts.written_bytes == 28 * SEALED_BYTES + sum(len(tail.sealed()) for tail in tails)


async def test_a_block_is_not_stored_while_it_is_being_deleted(store: BlockStore) -> None:
    (block,) = plain_chain(1, 1)
    await put_all(store, [block])
    await store.index.claim([block.hash], is_eviction=True)
    with pytest.raises(BlockBusy):
        await store.commit(block.hash)


async def test_a_lost_index_is_built_anew_from_the_blobs(tmp_path: Path) -> None:
    blocks = plain_chain(1, 5) + plain_chain(2, 1, token_count=17)
    before, after = make_store(tmp_path), make_store(tmp_path)
    await put_all(before, blocks)
    findings = await reconcile(after)
    assert findings.unindexed_count == 6
    names = [block.hash for block in blocks]
    assert [found.facts for found in await after.index.get(names)] == [
        found.facts for found in await before.index.get(names)
    ]
    assert (await after.index.counts()).written_bytes == 0


async def test_entries_without_a_blob_are_forgotten(store: BlockStore) -> None:
    blocks = plain_chain(1, 3)
    await put_all(store, blocks)
    await store.blobs.delete(blocks[1].hash)
    assert (await reconcile(store)).missing_count == 1
    assert await stored(store, blocks) == [0, 2]


async def test_a_directory_that_is_not_mounted_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    store = make_store(tmp_path / "kv")
    blocks = plain_chain(1, 2)
    await put_all(store, blocks)
    (tmp_path / "kv").rename(tmp_path / "away")
    with pytest.raises(StoreUnavailable):
        await reconcile(store)
    (tmp_path / "away").rename(tmp_path / "kv")
    assert await stored(store, blocks) == [0, 1]


async def test_verifying_finds_every_kind_of_damage_and_repairs_on_demand(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    sound, flipped, truncated, missing, unindexed, foreign = plain_chain(1, 6)
    await put_all(store, [sound, flipped, truncated, missing])
    path = tmp_path / blob_path(flipped.hash)
    blob = bytearray(path.read_bytes())
    blob[-100] ^= 1
    path.write_bytes(blob)
    path = tmp_path / blob_path(truncated.hash)
    path.write_bytes(path.read_bytes()[:-1])
    await store.blobs.delete(missing.hash)
    write_blob(tmp_path, unindexed.hash, unindexed.sealed())
    write_blob(tmp_path, foreign.hash, foreign.sealed(Keyring([bytes(32)])))
    expected = Findings(
        checked_count=5,
        checked_bytes=5 * SEALED_BYTES - 1,
        damaged_count=2,
        foreign_count=1,
        unindexed_count=1,
        missing_count=1,
    )
    assert await findings_of(store, repair=False) == expected
    assert await findings_of(store, repair=True) == expected
    assert await stored(store, [sound, flipped, truncated, missing, unindexed]) == [0, 4]
    assert await findings_of(store, repair=True) == Findings(
        checked_count=3, checked_bytes=3 * SEALED_BYTES, foreign_count=1
    )


async def test_a_block_that_a_reader_could_not_open_is_checked_before_it_goes(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    sound, damaged, missing = plain_chain(1, 3)
    await put_all(store, [sound, damaged, missing])
    (tmp_path / blob_path(damaged.hash)).write_bytes(b"x")
    await store.blobs.delete(missing.hash)
    await store.discard_damaged([sound.hash, damaged.hash, missing.hash])
    assert await stored(store, [sound, damaged, missing]) == [0]


async def test_many_writers_at_once_stay_within_the_budget(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=20 * SEALED_BYTES)
    chains = [plain_chain(seed, 8) for seed in range(8)]
    await asyncio.gather(*(put_all(store, chain) for chain in chains))
    counts = await store.index.counts()
    assert counts.size_bytes <= 20 * SEALED_BYTES + 8 * SEALED_BYTES
    await store.evict()
    assert (await store.index.counts()).size_bytes <= 20 * SEALED_BYTES
    assert await findings_of(store, repair=False) == Findings(
        checked_count=(await store.index.counts()).block_count, checked_bytes=(await store.index.counts()).size_bytes
    )


async def test_an_index_that_was_emptied_or_set_back_is_noticed(store: BlockStore) -> None:
    empty = await store.index.counts()
    await reconcile(store)
    counts = await store.index.counts()
    assert not has_lost(empty, counts)
    assert not has_lost(counts, counts)
    assert has_lost(counts, empty)
    assert has_lost(replace(counts, hit_count=5), counts)
