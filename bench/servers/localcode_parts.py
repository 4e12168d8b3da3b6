"""The processes behind `localcode up`, restarted one by one, and its models, swapped through its API."""

import asyncio
import signal
from contextlib import suppress
from typing import Final

import httpx
import psutil

from bench.client import chat
from bench.servers.process import tells_well, until
from services.shared.grpc_runtime import is_serving, open_channel

OTHER: Final = "other"
"""The name of the model that takes the main one's place for a while."""
_QUESTION: Final = {
    "model": OTHER,
    "messages": [{"role": "user", "content": "Good morning"}],
    "temperature": 0,
    "max_tokens": 4,
}


class LocalcodeParts:
    """What runs under one `localcode up`; it starts again whatever ends."""

    def __init__(self, pid: int, http: httpx.AsyncClient, worker_address: str) -> None:
        self._pid, self._http, self._worker_address = pid, http, worker_address

    async def restart_worker(self) -> None:
        """Ends the worker as a service manager would, and waits for the next one."""
        await self._restart("services.worker")
        async with open_channel(self._worker_address) as channel:
            await until(lambda: is_serving(channel, timeout_seconds=1.0), "the worker serves")
        await self._until_well()

    async def restart_index(self) -> None:
        """Ends the embedded Valkey, and waits for the next one."""
        await self._restart("valkey")
        await self._until_well()

    async def swap_models(self) -> None:
        """Unloads the main model, asks the other one something, and loads the main model again."""
        await self.unload("main")
        await self._ask_for(OTHER, "load")
        await chat(self._http, _QUESTION)
        await self.unload(OTHER)
        await self._ask_for("main", "load")
        await self._until_well()

    async def unload(self, model: str) -> None:
        """Ends a model's worker."""
        await self._ask_for(model, "unload")

    async def _ask_for(self, model: str, action: str) -> None:
        """Asks again and again, for the answer is 202 until it is done."""

        async def is_done() -> bool:
            answer = await self._http.post(f"/v1/models/{model}/{action}")
            return answer.raise_for_status().status_code == httpx.codes.OK

        await until(is_done, f"{action} {model}")

    async def _restart(self, part: str) -> None:
        before = await asyncio.to_thread(self._child, part)
        assert before is not None
        before.send_signal(signal.SIGTERM)

        async def is_back() -> bool:
            return await asyncio.to_thread(self._child, part) not in (None, before)

        await until(is_back, f"{part} runs again")

    def _child(self, part: str) -> psutil.Process | None:
        for process in psutil.Process(self._pid).children():
            with suppress(psutil.Error):  # it may end while it is looked at
                if part in " ".join(process.cmdline()):
                    return process
        return None

    async def _until_well(self) -> None:
        await until(lambda: tells_well(self._http, "/health"), "all is well again")
