"""The blob store against an S3 server."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from services.cache.blobs import Blobs, open_blobs
from services.cache.verify import Findings, reconcile, verify
from services.shared.block_client import open_block_client
from services.shared.errors import StoreUnavailable
from tests.fakes.block_store import FINGERPRINT, KEYS, SEALED_BYTES, make_store, plain_chain, put_all, served

pytestmark = pytest.mark.integration
BUCKET = "kv-blocks"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def blobs(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    client.close()
    return open_blobs(f"s3://{BUCKET}/some/prefix")


async def test_blobs_come_back_are_listed_and_deleted(blobs: Blobs) -> None:
    block, other = plain_chain(1, 2, state_bytes=6_000_000)
    blob = block.sealed()
    await blobs.write(block.hash, blob)
    await blobs.write(other.hash, b"x")
    assert await blobs.read(block.hash) == blob
    assert await blobs.read(block.hash, limit=100) == blob[:100]
    assert await blobs.size(block.hash) == len(blob)
    listed = {name: size async for piece in blobs.list() for name, size in piece}
    assert listed == {block.hash: len(blob), other.hash: 1}
    await blobs.delete(other.hash)
    await blobs.delete(other.hash)
    assert (await blobs.read(other.hash), await blobs.size(other.hash)) == (None, None)
    assert await blobs.read(other.hash, limit=10) is None


async def test_a_store_on_s3_serves_evicts_and_is_rebuilt(blobs: Blobs, tmp_path: Path) -> None:
    store = make_store(blobs=blobs, max_bytes=SEALED_BYTES * 43 // 10)
    blocks = plain_chain(1, 6)
    address = f"unix:{tmp_path}/c.sock"
    async with served(store, address), open_block_client(address, fingerprint=FINGERPRINT, keyring=KEYS) as client:
        await put_all(client, blocks[:4])
        for block in blocks[:4]:
            opened = await client.get(block.hash)
            assert opened is not None
            assert opened.state == block.state
        await put_all(client, plain_chain(2, 1))
        assert (await store.index.counts()).eviction_count == 1
    anew = make_store(blobs=blobs)
    assert (await reconcile(anew)).unindexed_count == 4
    names = [block.hash for block in blocks]
    assert len((await anew.index.lookup(FINGERPRINT, names, lease=None, counts=False)).prefix) == 3
    found = [findings async for findings in verify(anew, repair=False)][-1]
    assert found == Findings(checked_count=4, checked_bytes=4 * SEALED_BYTES)


async def test_an_s3_that_is_away_is_said_to_be(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    away = open_blobs(f"s3://{BUCKET}")
    async with asyncio.timeout(20):
        with pytest.raises(StoreUnavailable):
            await away.read(bytes(32))
