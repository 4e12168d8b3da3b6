"""The embedded Valkey as a child process: reachable by its socket alone, and persistent."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NotConnected

from cli.guardian import Guardian
from cli.paths import make_runtime_directory
from cli.supervisor import supervised
from cli.valkey import child_spec, find_program, url

pytestmark = pytest.mark.integration


async def answering(client: "Redis") -> None:
    for _ in range(200):
        try:
            await client.ping()
            return
        except NotConnected:
            await asyncio.sleep(0.05)
    raise AssertionError("Valkey does not answer")


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    program, runtime = find_program(), make_runtime_directory()
    assert program is not None
    spec = child_spec(program, data=tmp_path, socket=runtime / "v.sock", log=tmp_path / "log")
    for run in range(2):
        async with AsyncExitStack() as stack:
            guardian = stack.enter_context(Guardian())
            guardian.own_directory(runtime)
            runtime.mkdir(exist_ok=True)
            await stack.enter_async_context(supervised([spec], guardian=guardian, report=print))
            client: Redis = await stack.enter_async_context(Redis.from_url(url(runtime / "v.sock")))
            await answering(client)
            if run == 0:
                await client.set("key", "value")
            assert await client.get("key") == b"value"
    assert not runtime.exists()
