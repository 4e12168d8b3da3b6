"""What of its requests a worker leaves in the store, and what it has in memory when it starts again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from cli.ports import free_port
from localcode.cache.v1 import blocks_pb2
from localcode.cache.v1.blocks_pb2_grpc import BlockStoreServiceStub
from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceStub
from services.shared.grpc_runtime import open_channel
from tests.fakes.processes import running, until_serving

pytestmark = pytest.mark.integration
BLOCK_TOKENS = 256
TOOL = pb.Tool(name="get_weather", parameters_json='{"type":"object","properties":{"city":{"type":"string"}}}')
AGENT = "You are an agent. " + "Read a file before you change it and say what you did. " * 60
TITLES = "You are a title generator. " + "Answer with a title of a few words and nothing else. " * 60
SYSTEM, CONVERSATION = blocks_pb2.BLOCK_ROLE_SYSTEM, blocks_pb2.BLOCK_ROLE_CONVERSATION


class Rig:
    """A cache service, and a worker that tests start again and again."""

    def __init__(self, directory: Path, model: Path) -> None:
        self.directory, self.model = directory, model
        self.cache_address, self.address = f"unix:{directory}/c.sock", f"unix:{directory}/w.sock"
        self.metrics_port = free_port("127.0.0.1")

    @asynccontextmanager
    async def cache(self) -> AsyncIterator[BlockStoreServiceStub]:
        variables = {
            "LOCALCODE_CACHE_LISTEN": self.cache_address,
            "LOCALCODE_CACHE_STATE_DIRECTORY": str(self.directory / "state"),
            "LOCALCODE_CACHE_MIN_FREE_BYTES": "0",
        }
        async with running("services.cache", **variables), open_channel(self.cache_address) as channel:
            await until_serving(self.cache_address)
            yield BlockStoreServiceStub(channel)

    @asynccontextmanager
    async def worker(self, *, warms: bool, warm_tokens: int = 0) -> AsyncIterator[InferenceServiceStub]:
        """Runs a worker until the end of the block, from when it has warmed its memory with so many tokens."""
        variables = {
            "NAME": "scripted", "MODEL_PATH": str(self.model), "LISTEN": self.address, "CONTEXT": "8192",
            "THREADS": "1", "CACHE_ADDRESS": self.cache_address, "STATE_DIRECTORY": str(self.directory / "state"),
            "RAM_BYTES": "50000000", "METRICS_PORT": str(self.metrics_port),
            "DIGESTS_PATH": str(self.directory / "digests.json"),
            **({} if warms else {"WARM_BYTES": "0"}),
        }  # fmt: skip
        prefixed = {f"LOCALCODE_WORKER_{name}": value for name, value in variables.items()}
        async with running("services.worker", **prefixed) as process, open_channel(self.address) as channel:
            await until_serving(self.address, seconds=120)
            await self._until_prefetched(warm_tokens)
            yield InferenceServiceStub(channel)
            assert await process.terminate() == 0

    async def _until_prefetched(self, token_count: int) -> None:
        def prefetched_count() -> float:
            text = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", trust_env=False).text
            return float(text.split('localcode_worker_kv_prefetched_tokens_total{model="scripted"} ')[1].split()[0])

        async with asyncio.timeout(60):
            while await asyncio.to_thread(prefetched_count) < token_count:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


def request(kind: "pb.RequestClass.ValueType", system: str, *questions: str) -> pb.GenerateRequest:
    messages = [pb.Message(role=pb.ROLE_SYSTEM, content=[pb.ContentPart(text=system)])]
    messages += [pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text=text)]) for text in questions]
    return pb.GenerateRequest(
        request_id="r",
        chat=pb.ChatPrompt(messages=messages, tools=[TOOL] if kind == pb.REQUEST_CLASS_MAIN else []),
        sampling=pb.SamplingParams(temperature=0),
        context=pb.RequestContext(request_class=kind),
    )


async def answered(worker: InferenceServiceStub, asked: pb.GenerateRequest) -> pb.Usage:
    events = [event async for event in worker.Generate(asked, timeout=120)]
    return events[-1].finish.usage


async def stored(store: BlockStoreServiceStub) -> list[blocks_pb2.StoredBlock]:
    return list((await store.ListBlocks(blocks_pb2.ListBlocksRequest(page_size=1000), timeout=10)).blocks)


async def full_block_count(store: BlockStoreServiceStub) -> int:
    return sum(block.token_count == BLOCK_TOKENS for block in await stored(store))


async def test_titles_cost_no_writes_and_a_worker_starts_warm(tmp_path: Path, scripted_chat_model: Path) -> None:
    rig = Rig(tmp_path, scripted_chat_model)
    main = request(pb.REQUEST_CLASS_MAIN, AGENT, "How is the weather? " * 5)  # a tail of its own worth a file
    async with rig.cache() as store:
        async with rig.worker(warms=True) as worker:
            title = await answered(worker, request(pb.REQUEST_CLASS_TITLE, TITLES, "First " * 300))
            usage = await answered(worker, main)
            async with asyncio.timeout(60):
                while await full_block_count(store) < usage.prompt_token_count // BLOCK_TOKENS:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        blocks = usage.prompt_token_count // BLOCK_TOKENS
        assert min(blocks, title.prompt_token_count // BLOCK_TOKENS) >= 2
        assert await full_block_count(store) == blocks
        assert {block.role for block in await stored(store)} == {SYSTEM, CONVERSATION}
        statistics = await store.GetBlockStatistics(blocks_pb2.GetBlockStatisticsRequest(), timeout=10)
        assert statistics.computed_token_count > title.prompt_token_count + usage.prompt_token_count

        async with rig.worker(warms=True, warm_tokens=blocks * BLOCK_TOKENS) as worker:
            for topic in ("Second", "Third"):
                again = await answered(worker, request(pb.REQUEST_CLASS_TITLE, TITLES, f"{topic} " * 300))
            warm = (await answered(worker, main)).cached_from
        assert (warm.ram_token_count >= blocks * BLOCK_TOKENS, warm.disk_token_count) == (True, 0)
        returning = again.prompt_token_count // BLOCK_TOKENS * BLOCK_TOKENS
        assert BLOCK_TOKENS <= await full_block_count(store) * BLOCK_TOKENS - blocks * BLOCK_TOKENS < returning

        async with rig.worker(warms=False) as worker:
            cold = (await answered(worker, main)).cached_from
            fourth = (await answered(worker, request(pb.REQUEST_CLASS_TITLE, TITLES, "Fourth " * 300))).cached_from
        assert (cold.disk_token_count >= blocks * BLOCK_TOKENS, cold.ram_token_count) == (True, 0)
        assert fourth.disk_token_count >= BLOCK_TOKENS
