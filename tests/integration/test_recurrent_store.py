"""States of whole sequences in the store: recurrent and hybrid models go on where they were, in another process."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from tests.fakes.kv_system import Answer, KvSystem, kv_system, question, said
from tests.fakes.tiny_models import write_hybrid_model, write_recurrent_model

pytestmark = pytest.mark.integration
MOST_TOKENS = 12


@pytest.fixture(params=[write_recurrent_model, write_hybrid_model], ids=["recurrent", "hybrid"])
async def system(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[KvSystem]:
    model = request.param(tmp_path / "model.gguf")
    async with kv_system(tmp_path, model, with_valkey=True) as system:
        yield system


async def ask(system: KvSystem, worker: str, messages: list[pb.Message]) -> Answer:
    return await system.ask(worker, messages, max_tokens=MOST_TOKENS)


async def said_from_nothing(system: KvSystem, messages: list[pb.Message]) -> str:
    """What a worker says that keeps no state at all."""
    await system.start_worker("forgetful", LOCALCODE_WORKER_RAM_BYTES="0")
    answer = await ask(system, "forgetful", messages)
    assert answer.usage.cached_token_count == 0
    await system.processes["forgetful"].terminate()
    return answer.text


async def test_a_conversation_goes_on_after_a_restart_as_if_nothing_had_happened(system: KvSystem) -> None:
    messages = question("harbour", 1)
    await system.start_worker("a")
    first = await ask(system, "a", messages)
    await system.replace_worker("a")
    messages += [said(pb.ROLE_ASSISTANT, first.text), said(pb.ROLE_USER, "Go on.")]
    second = await ask(system, "a", messages)
    assert second.disk_count >= first.prompt_count - 1
    assert second.text == await said_from_nothing(system, messages)


async def test_the_same_prompt_once_more_on_another_worker_leaves_one_token_to_compute(system: KvSystem) -> None:
    await system.start_worker("a")
    await system.start_worker("b")
    first = await ask(system, "a", question("harbour", 1))
    await system.until_quiet(seconds=2.0)
    again = await ask(system, "b", question("harbour", 1))
    assert (again.text, again.disk_count) == (first.text, first.prompt_count - 1)


async def test_what_had_come_to_rest_outlives_a_kill_and_a_lost_index(system: KvSystem) -> None:
    messages = question("harbour", 1)
    await system.start_worker("a")
    first = await ask(system, "a", messages)
    await system.until_quiet(seconds=2.0)
    await system.processes["a"].kill()
    await system.processes["cache"].kill()
    assert system.valkey is not None
    with system.valkey.client() as client:
        client.flushall()
    await system.start_cache()
    await system.start_worker("a")
    again = await ask(system, "a", [*messages, said(pb.ROLE_ASSISTANT, first.text), said(pb.ROLE_USER, "Go on.")])
    assert again.disk_count >= first.prompt_count - 1


async def test_another_conversation_on_another_worker_goes_on_behind_the_system_text(system: KvSystem) -> None:
    await system.start_worker("a")
    await system.start_worker("b")
    prompt = said(pb.ROLE_SYSTEM, question("orchard", 2)[0].content[0].text)
    first = [prompt, said(pb.ROLE_USER, "Write a test.")]
    other = [prompt, said(pb.ROLE_USER, "Read the file.")]
    await ask(system, "a", first)
    await system.until_quiet(seconds=2.0)
    tokens, wanted = await system.token_ids("a", first), await system.token_ids("a", other)
    shared_count = next(place for place, pair in enumerate(zip(tokens, wanted, strict=False)) if len(set(pair)) > 1)
    answer = await ask(system, "b", other)
    assert answer.disk_count == shared_count - 1
    assert answer.text == await said_from_nothing(system, other)


async def test_a_damaged_state_is_a_miss_and_a_line_in_the_log(system: KvSystem) -> None:
    messages = question("harbour", 1)
    await system.start_worker("a")
    first = await ask(system, "a", messages)
    await system.processes["a"].terminate()
    assert system.blobs()
    for path in system.blob_directory.rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            blob = bytearray(path.read_bytes())
            blob[-100] ^= 1
            path.write_bytes(blob)
    await system.start_worker("a")
    again = await ask(system, "a", messages)
    assert (again.text, again.usage.cached_token_count) == (first.text, 0)
    assert system.events("a", "block_rejected")
