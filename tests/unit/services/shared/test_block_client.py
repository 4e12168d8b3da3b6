import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from grpc import StatusCode
from structlog.testing import capture_logs

from localcode.cache.v1 import blocks_pb2 as pb
from services.cache.block_store import BlockStore
from services.cache.redis_block_index import RedisBlockIndex
from services.cache.verify import reconcile
from services.shared.blob_directory import STORE_ID_FILE, blob_path
from services.shared.block_client import BlockClient, NextBlock, StoredChain, open_block_client
from services.shared.errors import StoreUnavailable, error_info
from services.shared.keyring import Keyring
from tests.fakes.block_store import FINGERPRINT, KEYS, SEALED_BYTES, make_store, plain_chain, put_all, served

OTHER_KEYS = Keyring([bytes(32)])


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/c.sock"


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return make_store(tmp_path / "kv")


@asynccontextmanager
async def client_of(
    store: BlockStore, address: str, *, keyring: Keyring = KEYS, fingerprint: bytes = FINGERPRINT
) -> AsyncIterator[BlockClient]:
    async with served(store, address), open_block_client(address, fingerprint=fingerprint, keyring=keyring) as client:
        yield client


@pytest.fixture(params=["shared directory", "streamed"])
async def client(
    request: pytest.FixtureRequest, store: BlockStore, address: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[BlockClient]:
    if request.param == "streamed":
        monkeypatch.setattr("services.shared.block_client.read_store_id", lambda _path: "another one")
    async with client_of(store, address) as client:
        yield client


def damage(store: BlockStore, block_hash: bytes, change: Callable[[bytes], bytes]) -> None:
    assert store.blobs.directory is not None
    path = store.blobs.directory / blob_path(block_hash)
    path.write_bytes(change(path.read_bytes()))


async def test_a_block_comes_back_as_it_was_put(client: BlockClient) -> None:
    (block,) = plain_chain(1, 1, state_bytes=50_000)
    assert await client.put(block.hash, block.header, memoryview(bytearray(block.state)))
    opened = await client.get(block.hash)
    assert opened is not None
    assert (opened.header, opened.state) == (block.header, block.state)


@pytest.mark.parametrize("token_count", [3, 256, 5000])
async def test_what_a_block_holds_can_be_read_without_its_state(client: BlockClient, token_count: int) -> None:
    (block,) = plain_chain(1, 1, token_count=token_count)
    await put_all(client, [block])
    assert await client.get_header(block.hash) == block.header
    assert await client.get_header(bytes(32)) is None


async def test_a_lookup_finds_the_beginning_and_the_tails_behind_it(client: BlockClient) -> None:
    blocks = plain_chain(1, 3)
    tail = plain_chain(2, 1, parent=blocks[1].hash, token_count=77)
    await put_all(client, blocks[:2] + tail)
    chain = await client.lookup([block.hash for block in blocks])
    assert chain.hashes == tuple(block.hash for block in blocks[:2])
    assert chain.next == (NextBlock(tail[0].hash, 77, len(tail[0].sealed())),)
    assert chain.lease_id


async def test_states_are_found_by_place_and_by_name_and_guarded(client: BlockClient, store: BlockStore) -> None:
    places = [bytes([number]) * 32 for number in range(2)]
    plain = [plain_chain(seed, 1, parent=place)[0] for seed, place in enumerate((*places, bytes(32)))]
    states = [replace(state, header=replace(state.header, is_whole=True)) for state in plain]
    await put_all(client, states)
    found = await client.find_states(places, [states[2].hash])
    assert [block.hash for block in found.next] == [states[number].hash for number in (2, 1, 0)]
    assert await store.prune() == []
    await client.release(found, used=[states[0].hash])
    assert [block.hit_count for block in await store.index.get([state.hash for state in states])] == [1, 0, 0]
    assert len(await store.prune()) == 3


async def test_leases_guard_blocks_until_they_are_released(client: BlockClient, store: BlockStore) -> None:
    blocks = plain_chain(1, 2)
    await put_all(client, blocks)
    chain = await client.lookup([blocks[0].hash])
    assert await store.prune() == []
    await client.release(chain, used=[blocks[1].hash])
    assert [block.hit_count for block in await store.index.get([block.hash for block in blocks])] == [1, 1]
    assert len(await store.prune()) == 2


async def test_a_peek_guards_and_counts_nothing(client: BlockClient, store: BlockStore) -> None:
    blocks = plain_chain(1, 1)
    await put_all(client, blocks)
    assert (await client.lookup([blocks[0].hash], peek=True)).lease_id == ""
    assert (await store.index.counts()).hit_count == 0
    assert len(await store.prune()) == 1


async def test_a_directory_that_is_shared_is_read_and_written_directly(store: BlockStore, address: str) -> None:
    (block,) = plain_chain(1, 1)
    async with client_of(store, address) as client:
        streamed: list[str] = []
        for name in ("put", "read"):
            setattr(store, name, lambda *_arguments, name=name: streamed.append(name))
        assert await client.put(block.hash, block.header, block.state)
        assert await client.get(block.hash) is not None
        assert streamed == []


async def test_a_block_that_is_not_stored_is_a_miss_without_a_warning(client: BlockClient) -> None:
    with capture_logs() as logs:
        assert await client.get(bytes(32)) is None
        assert await client.lookup([bytes(32)]) == StoredChain()
    assert not [entry for entry in logs if entry["log_level"] == "warning" and entry["event"] == "kv_store_fails"]


@pytest.mark.parametrize("change", [lambda blob: blob[:-9] + b"x" + blob[-8:], lambda blob: blob[:-1], lambda _: b""])
async def test_a_damaged_block_is_a_miss_and_can_be_stored_anew(
    client: BlockClient, store: BlockStore, change: Callable[[bytes], bytes]
) -> None:
    (block,) = plain_chain(1, 1)
    await put_all(client, [block])
    damage(store, block.hash, change)
    assert await client.get(block.hash) is None
    assert await client.lookup([block.hash]) == StoredChain()
    await put_all(client, [block])
    assert await client.get(block.hash) is not None


async def test_another_key_or_another_model_reads_nothing_and_harms_nothing(store: BlockStore, address: str) -> None:
    (block,) = plain_chain(1, 1)
    async with client_of(store, address) as client:
        await put_all(client, [block])
        for keyring, fingerprint in ((OTHER_KEYS, FINGERPRINT), (KEYS, bytes(32))):
            async with open_block_client(address, keyring=keyring, fingerprint=fingerprint) as stranger:
                assert await stranger.get(block.hash) is None
        assert await client.get(block.hash) is not None


async def test_what_another_key_sealed_is_refused(store: BlockStore, address: str) -> None:
    (block,) = plain_chain(1, 1)
    async with client_of(store, address, keyring=OTHER_KEYS) as client:
        assert not await client.put(block.hash, block.header, block.state)
    assert await store.blobs.size(block.hash) is None


async def test_a_store_that_is_away_costs_nothing_but_one_warning(address: str) -> None:
    (block,) = plain_chain(1, 1)
    async with open_block_client(address, fingerprint=FINGERPRINT, keyring=KEYS) as client:
        with capture_logs() as logs:
            for _ in range(3):
                assert await client.lookup([block.hash]) == StoredChain()
                assert await client.get(block.hash) is None
                assert not await client.put(block.hash, block.header, block.state)
                await client.release(StoredChain((block.hash,), (), "0" * 32))
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("kv_store_fails", "unavailable")]


class Hanging:
    """Stands in for calls that are never answered."""

    def __init__(self) -> None:
        self.call_count = 0
        self.go_on = asyncio.Event()

    async def __call__(self, *_arguments: object, **_options: object) -> None:
        self.call_count += 1
        await self.go_on.wait()
        raise StoreUnavailable("too late")


async def test_a_store_that_hangs_delays_one_request_and_is_asked_again_later(
    store: BlockStore, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks, hanging = plain_chain(1, 2), Hanging()
    monkeypatch.setattr("services.shared.block_client._CALL_SECONDS", 0.2)
    async with client_of(store, address) as client:
        await put_all(client, blocks[:1])
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(store.index, "lookup", hanging)
            for _ in range(5):
                assert await client.lookup([blocks[0].hash]) == StoredChain()
                assert await client.get(blocks[0].hash) is None
                assert not await client.put(blocks[1].hash, blocks[1].header, blocks[1].state)
        assert hanging.call_count == 1
        assert client.is_away
        assert [(entry["event"], entry["reason"]) for entry in logs] == [("kv_store_fails", "deadline_exceeded")]
        monkeypatch.setattr(client._trouble, "_paused_until", 0.0)
        assert (await client.lookup([blocks[0].hash])).hashes == (blocks[0].hash,)
        await put_all(client, blocks[1:])
        assert not client.is_away
        hanging.go_on.set()


async def test_a_block_that_does_not_come_delays_one_request(
    store: BlockStore, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks, hanging = plain_chain(1, 4), Hanging()
    monkeypatch.setattr("services.shared.block_client.read_store_id", lambda _path: "another one")
    monkeypatch.setattr("services.shared.block_client._STALL_SECONDS", 0.2)
    async with client_of(store, address) as client:
        await put_all(client, blocks)
        monkeypatch.setattr(store.blobs, "read", hanging)
        opened = await asyncio.gather(*(client.get(block.hash) for block in blocks))
        assert opened == [None] * 4
        assert hanging.call_count == 2  # those that were read at once
        hanging.go_on.set()


async def test_a_store_of_another_key_is_named_once_and_neither_read_nor_written(
    store: BlockStore, address: str
) -> None:
    blocks = plain_chain(1, 2)
    async with client_of(store, address) as client:
        assert await client.knows_key()
        await put_all(client, blocks[:1])
        with capture_logs() as logs:
            async with open_block_client(address, fingerprint=FINGERPRINT, keyring=OTHER_KEYS) as stranger:
                assert not await stranger.knows_key()
                for _ in range(3):
                    assert await stranger.lookup([blocks[0].hash]) == StoredChain()
                    assert not await stranger.put(blocks[1].hash, blocks[1].header, blocks[1].state)
    (entry,) = logs
    assert (entry["event"], entry["reason"]) == ("kv_store_fails", "another key")
    assert "LOCALCODE_KV_KEY" in entry["detail"]
    assert "kv.key" in entry["detail"]


async def test_a_key_that_was_rotated_out_of_the_front_is_known(store: BlockStore, address: str) -> None:
    store = make_store(index=store.index, blobs=store.blobs, keyring=Keyring([bytes(32), bytes(range(32))]))
    async with client_of(store, address) as client:
        assert await client.knows_key()


async def test_whether_a_key_is_known_can_be_asked_of_a_store_that_is_away(address: str) -> None:
    async with open_block_client(address, fingerprint=FINGERPRINT, keyring=KEYS) as client:
        assert await client.knows_key()


async def test_an_index_that_is_away_fails_at_once_and_works_when_it_is_back(tmp_path: Path, address: str) -> None:
    server = FakeServer()
    store = make_store(tmp_path / "kv", index=RedisBlockIndex(FakeAsyncRedis(server=server)))
    blocks = plain_chain(1, 2)
    async with (
        served(store, address) as stub,
        open_block_client(address, fingerprint=FINGERPRINT, keyring=KEYS) as client,
    ):
        await put_all(client, blocks[:1])
        server.connected = False
        with capture_logs() as logs:
            assert await client.lookup([blocks[0].hash]) == StoredChain()
            assert not await client.put(blocks[1].hash, blocks[1].header, blocks[1].state)
        assert [entry["reason"] for entry in logs if entry["event"] == "kv_store_fails"] == ["unavailable"]
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.GetBlockStatistics(pb.GetBlockStatisticsRequest(), timeout=1)
        assert failure.value.code() is StatusCode.UNAVAILABLE
        assert error_info(failure.value).reason == "store_unavailable"
        server.connected = True
        assert (await client.lookup([blocks[0].hash])).hashes == (blocks[0].hash,)
        await put_all(client, blocks[1:])


async def test_a_full_disk_drops_the_block_with_one_warning(
    client: BlockClient, store: BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    blocks = plain_chain(1, 3)
    await put_all(client, blocks[:1])
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr("services.shared.blob_directory.os.write", full)
        for block in blocks[1:]:
            assert not await client.put(block.hash, block.header, block.state)
            assert (await client.lookup([blocks[0].hash])).hashes
            assert await client.get(blocks[0].hash) is not None
    warnings = [entry for entry in logs if entry["event"] == "kv_store_fails"]
    assert len(warnings) == 1
    assert "No space is left" in warnings[0]["detail"]
    assert await client.get(blocks[0].hash) is not None
    await put_all(client, blocks[1:])


async def test_a_full_disk_is_resource_exhausted_on_the_wire(
    store: BlockStore, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (block,) = plain_chain(1, 1)
    monkeypatch.setattr("services.shared.blob_directory.os.write", full)
    async with served(store, address) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.PutBlock(iter([pb.PutBlockRequest(hash=block.hash, data=bytes(block.sealed()))]))
    assert failure.value.code() is StatusCode.RESOURCE_EXHAUSTED
    assert error_info(failure.value).reason == "store_full"


async def test_after_the_index_was_emptied_everything_hits_again(tmp_path: Path, address: str) -> None:
    redis = FakeAsyncRedis()
    store = make_store(tmp_path / "kv", index=RedisBlockIndex(redis))
    trunk = plain_chain(1, 4)
    tails = [plain_chain(seed, 1, parent=trunk[-1].hash, token_count=seed)[0] for seed in (5, 6)]
    async with client_of(store, address) as client:
        await put_all(client, trunk + tails)
        await redis.flushall()
        assert await client.lookup([block.hash for block in trunk]) == StoredChain()
        await reconcile(store)
        chain = await client.lookup([block.hash for block in trunk])
        assert chain.hashes == tuple(block.hash for block in trunk)
        assert {following.token_count for following in chain.next} == {5, 6}
        for block in trunk + tails:
            assert await client.get(block.hash) is not None


async def test_no_prompt_can_be_read_in_a_blob_or_in_redis(tmp_path: Path, address: str) -> None:
    redis = FakeAsyncRedis()
    store = make_store(tmp_path / "kv", index=RedisBlockIndex(redis))
    (block,) = plain_chain(1, 1)
    sentinels = [block.header.tokens[start : start + 8] for start in range(0, 1024, 8)] + [block.state[:16]]
    async with client_of(store, address) as client:
        await put_all(client, [block])
        await client.lookup([block.hash])
    at_rest = [(tmp_path / "kv" / blob_path(block.hash)).read_bytes()]
    at_rest += [await redis.dump(key) for key in await redis.keys("*")]
    assert len(at_rest) > 5
    assert not [sentinel for sentinel in sentinels for data in at_rest if sentinel in data]


async def test_a_directory_of_the_same_path_but_another_machine_is_not_written(
    store: BlockStore, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.blobs.directory is not None
    assert (store.blobs.directory / STORE_ID_FILE).exists()
    monkeypatch.setattr("services.shared.block_client.read_store_id", lambda _path: "")
    (block,) = plain_chain(1, 1)
    async with client_of(store, address) as client:
        assert await client._shared_directory() is None
        assert await client.put(block.hash, block.header, block.state)
    assert await store.blobs.size(block.hash) == SEALED_BYTES


async def test_the_hottest_blocks_fit_what_is_asked_and_asking_counts_nothing(
    client: BlockClient, store: BlockStore
) -> None:
    blocks = plain_chain(1, 3)
    await put_all(client, blocks)
    await client.lookup([blocks[0].hash])
    before = await store.index.counts()
    hottest = await client.hottest(max_bytes=2 * SEALED_BYTES)
    assert [(block.hash, block.size_bytes) for block in hottest] == [(one.hash, SEALED_BYTES) for one in blocks[:2]]
    assert await store.index.counts() == before


async def test_computed_tokens_are_counted_where_the_store_answers(store: BlockStore, address: str) -> None:
    async with client_of(store, address) as client:
        assert await client.count_tokens(300)
        assert (await store.index.counts()).computed_token_count == 300
    async with open_block_client(address, fingerprint=FINGERPRINT, keyring=KEYS) as client:
        assert not await client.count_tokens(300)
        assert await client.hottest(max_bytes=1000) == ()
