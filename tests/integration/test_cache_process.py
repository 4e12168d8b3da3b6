"""The cache service as a process, with its index in memory."""

from pathlib import Path

import grpc
import pytest
from grpc import StatusCode

from localcode.cache.v1 import cache_pb2 as pb
from localcode.cache.v1.cache_pb2_grpc import CacheServiceStub
from services.shared.errors import error_info
from services.shared.grpc_runtime import open_channel
from tests.fakes.processes import running, until_serving

pytestmark = pytest.mark.integration


async def test_it_serves_and_stops_cleanly(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/c.sock"
    async with running("services.cache", LOCALCODE_CACHE_LISTEN=address) as process:
        await until_serving(address)
        async with open_channel(address) as channel:
            stub = CacheServiceStub(channel)
            worker = pb.Worker(worker_id="w1", address="127.0.0.1:9")
            await stub.RegisterWorker(pb.RegisterWorkerRequest(worker=worker, lease_seconds=5))
            listed = await stub.ListWorkers(pb.ListWorkersRequest())
            assert list(listed.workers) == [worker]
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stub.RegisterWorker(pb.RegisterWorkerRequest(worker=worker, lease_seconds=90))
            assert refusal.value.code() is StatusCode.INVALID_ARGUMENT
            assert error_info(refusal.value).metadata["param"] == "lease_seconds"
        assert await process.terminate() == 0


async def test_a_wrong_setting_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    async with running("services.cache", LOCALCODE_CACHE_REDIS_URL="http://redis") as process:
        assert await process.wait() == 1
    assert "redis_url" in capfd.readouterr().err
