import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.fakes.inference import FakeInferenceService, admitted, content, serving

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "hi"}


@pytest.fixture
async def fake() -> FakeInferenceService:
    return FakeInferenceService()


async def test_the_process_serves_and_names_a_busy_port(fake: FakeInferenceService) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        process = await run_edge("--port", str(port))
        _, errors = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 1
        assert f"Port {port} on 127.0.0.1 is in use".encode() in errors
    async with serving(fake) as address:
        process = await run_edge("--port", str(port), LOCALCODE_EDGE_ROUTER_ADDRESS=address)
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                await until_it_serves(client)
                answer = await client.post(CHAT, json={"messages": [USER]})
                assert answer.json()["choices"][0]["finish_reason"] == "stop"
        finally:
            process.terminate()
            _, errors = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0
        events = [json.loads(line) for line in errors.splitlines()]
        assert {"edge_listens", "chat_request", "chat_response"} <= {event["event"] for event in events}
        assert b"Hello world" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_stop_signal_cuts_open_streams_and_leaves_quietly(
    fake: FakeInferenceService, number: signal.Signals
) -> None:
    fake.script = lambda _: [admitted(), content("a"), 60.0]
    port = free_port()
    async with serving(fake) as address:
        process = await run_edge(
            LOCALCODE_EDGE_ROUTER_ADDRESS=address,
            LOCALCODE_EDGE_PORT=str(port),
            LOCALCODE_EDGE_GRACEFUL_SHUTDOWN_SECONDS="0",
        )
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await until_it_serves(client)
            async with client.stream("POST", CHAT, json={"messages": [USER], "stream": True}) as response:
                pieces = response.aiter_bytes()
                await anext(pieces)
                process.send_signal(number)
                with pytest.raises(httpx.RemoteProtocolError):
                    await read_all(pieces)
        await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0
        await asyncio.wait_for(fake.cancelled.wait(), 5)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port: int = holder.getsockname()[1]
        return port


async def read_all(pieces: AsyncIterator[bytes]) -> None:
    async for _piece in pieces:
        pass


async def run_edge(*arguments: str, **variables: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edge", *arguments, env=variables, stdout=-3, stderr=asyncio.subprocess.PIPE
    )


async def until_it_serves(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await client.get("/")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return
