"""Whatever happens to the store, its disk, its index or its blobs: answers stay right, and saving goes on."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from grpc.aio import AioRpcError
from typer.testing import CliRunner, Result

from cli.main import app
from services.shared.blob_directory import blob_path
from services.shared.keyring import Keyring
from services.shared.sealing import decode_block, read_preamble, seal_block
from tests.fakes.kv_system import ANSWERS, SCRIPT, TOPICS, KvSystem, kv_system, pid_of, question
from tests.fakes.scripted_model import write_scripted_model

pytestmark = pytest.mark.integration
LEFT = 40
"""A tail of fewer tokens is not worth a file."""
Change = Callable[[KvSystem, bytes, bytes], bytes]
"""From a system, a block's name and its blob to what is put in place of it."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scripted_model(tmp_path_factory.mktemp("model") / "topics.gguf", SCRIPT)


@pytest.fixture
async def system(tmp_path: Path, model: Path) -> AsyncIterator[KvSystem]:
    async with kv_system(tmp_path, model, with_valkey=True) as system:
        yield system


async def ask_and_check(system: KvSystem, worker: str, topic: str, seed: int) -> tuple[int, int]:
    """Asks, checks the answer, and returns how many tokens the prompt has and how many of them came from the disk."""
    answer = await system.ask(worker, question(topic, seed))
    assert answer.text == ANSWERS[topic]
    return answer.prompt_count, answer.disk_count


async def test_an_emptied_index_comes_back_and_everything_hits_again(system: KvSystem) -> None:
    await system.start_worker("a")
    counts = [await ask_and_check(system, "a", topic, seed) for seed, topic in enumerate(TOPICS[:3])]
    await system.until_stored(sum(count for count, _ in counts) - 3 * 256)
    await system.until_quiet()
    block_count = await system.block_count()
    assert block_count == len(system.blobs())
    assert system.valkey is not None
    with system.valkey.client() as redis:
        redis.flushall()
    await system.until_stored(256 * block_count)
    await system.replace_worker("a")
    for seed, topic in enumerate(TOPICS[:3]):
        prompt_count, disk_count = await ask_and_check(system, "a", topic, seed)
        assert disk_count >= prompt_count - LEFT


async def test_while_redis_is_gone_answers_go_on_and_what_they_computed_is_saved_later(
    system: KvSystem, rounds: range
) -> None:
    await system.start_worker("a")
    await ask_and_check(system, "a", "harbour", 0)
    await system.until_stored(256)
    await system.until_quiet()
    before = await system.block_count()
    system.stop_valkey()
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + (30 if len(rounds) > 1 else 3)
    seeds = []
    while loop.time() < ends_at:
        seeds.append(len(seeds) + 1)
        await ask_and_check(system, "a", TOPICS[seeds[-1] % len(TOPICS)], seeds[-1])
        await asyncio.sleep(0.5)
    assert len(system.events("a", "kv_store_fails")) == 1
    system.start_valkey()
    await system.until_stored(700 * len(seeds), since=before)
    await system.until_quiet()
    await system.replace_worker("a")
    for seed in seeds:
        prompt_count, disk_count = await ask_and_check(system, "a", TOPICS[seed % len(TOPICS)], seed)
        assert disk_count >= prompt_count - LEFT


def flipped(_system: KvSystem, _name: bytes, blob: bytes) -> bytes:
    place = len(blob) // 2
    return blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]


def truncated(_system: KvSystem, _name: bytes, blob: bytes) -> bytes:
    return blob[:-100]


def of_another_key(system: KvSystem, name: bytes, blob: bytes) -> bytes:
    header, state = decode_block(blob, name, keyring=system.keyring())
    fingerprint = read_preamble(blob).fingerprint
    return bytes(seal_block(name, header, state, fingerprint=fingerprint, keyring=Keyring([b"k" * 32])))


def of_another_model(system: KvSystem, name: bytes, blob: bytes) -> bytes:
    keyring = system.keyring()
    header, state = decode_block(blob, name, keyring=keyring)
    return bytes(seal_block(name, header, state, fingerprint=b"f" * 32, keyring=keyring))


async def test_a_blob_that_is_not_what_it_should_be_is_a_miss_and_a_log_line(system: KvSystem) -> None:
    changes: dict[str, tuple[Change, str]] = {
        "lighthouse": (flipped, "damaged state"),
        "orchard": (truncated, "truncated"),
        "harbour": (of_another_key, "another key"),
        "railway": (of_another_model, "another model"),
    }
    await system.start_worker("a")
    first_blocks = {}
    for seed, topic in enumerate(changes):
        known = set(system.blobs())
        prompt_count, _ = await ask_and_check(system, "a", topic, seed)
        await system.until_stored(prompt_count)
        await system.until_quiet()
        first_blocks[topic] = first_of(system, set(system.blobs()) - known)
    for topic, (change, _) in changes.items():
        path = system.blob_directory / blob_path(first_blocks[topic])
        path.write_bytes(change(system, first_blocks[topic], path.read_bytes()))
    await system.replace_worker("a")
    for seed, (topic, (_, reason)) in enumerate(changes.items()):
        prompt_count, _ = await ask_and_check(system, "a", topic, seed)
        rejected = [event["reason"] for event in system.events("a", "block_rejected")]
        assert rejected == [reason for _, reason in list(changes.values())[: seed + 1]]


def first_of(system: KvSystem, names: set[bytes]) -> bytes:
    """The block of a conversation that follows none of the others."""
    directory, keyring = system.blob_directory, system.keyring()
    parents = {
        name: decode_block((directory / blob_path(name)).read_bytes(), name, keyring=keyring)[0].parent
        for name in names
    }
    (first,) = [name for name, parent in parents.items() if parent not in names]
    return first


async def test_on_a_full_disk_answers_go_on_with_one_warning_and_saving_resumes(tmp_path: Path, model: Path) -> None:
    async with kv_system(tmp_path, model) as system:
        full = tmp_path / "disk-is-full"
        await system.start_worker("a", LOCALCODE_TEST_FULL_DISK=str(full))
        full.touch()
        for seed, topic in enumerate(TOPICS):
            assert (await ask_and_check(system, "a", topic, seed))[1] == 0
            await asyncio.sleep(0.3)
        assert system.blobs() == {}
        (warning,) = system.events("a", "kv_store_fails")
        assert warning["reason"] == "StoreFull"
        assert "No space is left" in str(warning["detail"])
        full.unlink()
        prompt_count, _ = await ask_and_check(system, "a", "harbour", 100)
        await system.until_stored(prompt_count)
        assert len(system.events("a", "kv_store_works_again")) == 1


async def command(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["cache", *arguments])


class Killing:
    """Kills what saves at random moments, and starts it again."""

    def __init__(self, system: KvSystem, chance: random.Random) -> None:
        self.system, self.chance = system, chance
        self.answers = self.hits = 0

    async def round(self, number: int) -> None:
        """Lets the worker compute and save a new conversation and one that may be stored, while something dies."""
        victim = self.chance.choice(["worker", "cache", "Valkey"])
        asking = asyncio.gather(self.ask(number), self.ask(self.chance.randrange(number + 1)))
        await asyncio.sleep(self.chance.uniform(0.0, 0.8))
        await self.kill(victim)
        await asking
        await self.start(victim)

    async def ask(self, seed: int) -> None:
        topic = TOPICS[seed % len(TOPICS)]
        try:
            answer = await self.system.ask("worker", question(topic, seed))
        except AioRpcError:
            return  # it was the worker that died
        assert answer.text == ANSWERS[topic]
        self.answers += 1
        self.hits += answer.disk_count > 0

    async def kill(self, victim: str) -> None:
        if victim == "Valkey":
            assert self.system.valkey is not None
            os.kill(pid_of(self.system.valkey), signal.SIGKILL)
            self.system.stop_valkey()
        else:
            await self.system.processes[victim].kill()

    async def start(self, victim: str) -> None:
        if victim == "Valkey":
            self.system.start_valkey()
        elif victim == "cache":
            await self.system.start_cache()
        else:
            await self.system.start_worker("worker")


async def test_after_kills_at_any_moment_of_saving_all_that_hits_is_valid_and_no_answer_differs(
    system: KvSystem, rounds: range
) -> None:
    await system.start_worker("worker")
    killing = Killing(system, random.Random(7))
    count = 8 * len(rounds)
    for number in range(count):
        await killing.round(number)
    await system.until_quiet()
    await command("verify", "--repair", "--address", system.cache_address)
    verified = await command("verify", "--address", system.cache_address)
    assert verified.exit_code == 0, verified.output
    assert "all is as it should be" in verified.output
    for name in system.blobs():
        decode_block((system.blob_directory / blob_path(name)).read_bytes(), name, keyring=system.keyring())
    await system.replace_worker("worker")
    for seed in range(count):
        await killing.ask(seed)
    assert killing.answers >= count
    assert killing.hits >= count // 2
