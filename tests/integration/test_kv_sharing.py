"""Workers share what they computed, through the store: across processes, model swaps, and a lost index."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from tests.fakes.kv_system import ANSWERS, SCRIPT, KvSystem, kv_system, question, said
from tests.fakes.scripted_model import Branch, Script, write_scripted_model

pytestmark = pytest.mark.integration
BLOCK = 256
LEFT = 40
"""A tail of fewer tokens is not worth a file."""
SENTINEL = "The vault's word is xylophone-quartz-7316 and nobody must ever read it. "


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scripted_model(tmp_path_factory.mktemp("model") / "topics.gguf", SCRIPT)


@pytest.fixture
async def system(tmp_path: Path, model: Path) -> AsyncIterator[KvSystem]:
    async with kv_system(tmp_path, model) as system:
        yield system


async def test_a_conversation_goes_on_at_another_worker_without_being_read_again(system: KvSystem) -> None:
    await system.start_worker("a")
    await system.start_worker("b")
    messages = question("harbour", 1)
    first = await system.ask("a", messages)
    assert first.text == ANSWERS["harbour"]
    known_count = first.prompt_count + first.usage.completion_token_count
    await system.until_stored(known_count)
    await system.until_quiet()
    messages += [said(pb.ROLE_ASSISTANT, first.text), said(pb.ROLE_USER, "Go on.")]
    second = await system.ask("b", messages)
    assert second.text == ANSWERS["harbour"]
    assert second.disk_count >= known_count - LEFT
    assert second.prompt_count - second.usage.cached_token_count < 64


async def test_a_model_that_made_way_for_another_one_gets_its_conversations_back(
    system: KvSystem, tmp_path: Path
) -> None:
    other_script = Script("Something else.", (Branch("Topic harbour", "The other model knows harbours, too."),))
    other = write_scripted_model(tmp_path / "other.gguf", other_script)
    messages = question("harbour", 1)
    await system.start_worker("a")
    first = await system.ask("a", messages)
    await system.until_stored(first.prompt_count)
    await system.until_quiet()
    await system.processes["a"].terminate()
    await system.start_worker("a", model=other)
    between = await system.ask("a", messages)
    assert (between.text, between.disk_count) == ("The other model knows harbours, too.", 0)
    await system.replace_worker("a")
    again = await system.ask("a", messages)
    assert again.text == first.text == ANSWERS["harbour"]
    assert again.disk_count >= again.prompt_count - LEFT


async def test_a_worker_that_is_stopped_right_after_an_answer_has_stored_it(system: KvSystem) -> None:
    await system.start_worker("a")
    first = await system.ask("a", question("harbour", 1, words=400))
    await system.replace_worker("a")
    again = await system.ask("a", question("harbour", 1, words=400))
    assert again.text == first.text == ANSWERS["harbour"]
    assert again.disk_count >= again.prompt_count - LEFT


@pytest.mark.parametrize("over", [16, 120, 230])
async def test_ten_conversations_over_one_prompt_store_it_once_wherever_it_ends(system: KvSystem, over: int) -> None:
    await system.start_worker("a", LOCALCODE_WORKER_KV_CELLS="20000")
    words = 480
    while True:
        prompt = said(pb.ROLE_SYSTEM, question("harbour", 1, words=words)[0].content[0].text)
        prompt_count = len(await system.token_ids("a", [prompt]))
        if abs(prompt_count % BLOCK - over) < 12:
            break
        words -= 1
    tail_counts = []
    for number in range(10):
        asked = await system.ask("a", [prompt, said(pb.ROLE_USER, f"{number} " * 120)])
        assert asked.text == ANSWERS["harbour"]
        await system.until_stored(asked.prompt_count)
        await system.until_quiet()
        tail_counts.append(asked.prompt_count + asked.usage.completion_token_count - prompt_count)
    sizes = sorted(system.blobs().values())
    bytes_per_token = sizes[-1] / BLOCK  # of a whole block
    assert prompt_count > 2500
    assert sum(sizes) <= 1.1 * bytes_per_token * (prompt_count + sum(tail_counts))


async def test_a_prompt_is_in_no_blob_and_no_dump_neither_as_text_nor_as_tokens(tmp_path: Path, model: Path) -> None:
    async with kv_system(tmp_path, model, with_valkey=True) as system:
        await system.start_worker("a")
        told = [said(role, SENTINEL * 4) for role in (pb.ROLE_ASSISTANT, pb.ROLE_USER)]
        messages = [*question("harbour", 1), *told]
        asked = await system.ask("a", messages)
        await system.until_stored(asked.prompt_count)
        await system.until_quiet()
        tokens = await system.token_ids("a", messages)
        assert system.valkey is not None
        with system.valkey.client() as redis:
            redis.save()
        at_rest = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}  # noqa: ASYNC240
        names = list(system.blobs())
    assert len(names) >= 5
    dumps = [data for path, data in at_rest.items() if path.suffix in {".rdb", ".aof"}]
    assert all(any(name in data for data in dumps) for name in names)  # hashes may be read: these are the right files
    found = [(path, form) for path, data in at_rest.items() for form in forms_of(SENTINEL, tokens) if form in data]
    assert found == []


def forms_of(text: str, tokens: Sequence[int]) -> set[bytes]:
    """Pieces of a text, and of its token ids, as they might be written."""
    pieces = [text[start : start + 16] for start in range(0, len(text) - 16, 4)]
    forms = {piece.encode(encoding) for piece in pieces for encoding in ("utf-8", "utf-16-le")}
    for start in range(0, len(tokens) - 8, 4):
        some = tokens[start : start + 8]
        for size in (2, 4, 8):
            forms |= {b"".join(token.to_bytes(size, order) for token in some) for order in ("little", "big")}
        forms |= {b"".join(map(varint, some))}
        forms |= {separator.join(map(str, some)).encode() for separator in (",", ", ", " ", "\n")}
    return forms


def varint(number: int) -> bytes:
    """As protobuf writes it."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low]) if not rest else bytes([low | 0x80]) + varint(rest)


async def test_quantized_state_is_not_restored_under_another_rotation(system: KvSystem) -> None:
    quantized = {"LOCALCODE_WORKER_CACHE_TYPE_K": "q8_0", "LOCALCODE_WORKER_CACHE_TYPE_V": "q8_0"}
    messages = question("glacier", 1)
    await system.start_worker("a", **quantized)
    first = await system.ask("a", messages)
    await system.until_stored(first.prompt_count)
    await system.until_quiet()
    await system.replace_worker("a", **quantized, LLAMA_ATTN_ROT_DISABLE="1")
    other = await system.ask("a", messages)
    await system.replace_worker("a", **quantized)
    again = await system.ask("a", messages)
    assert first.text == other.text == again.text == ANSWERS["glacier"]
    assert other.disk_count == 0
    assert again.disk_count >= again.prompt_count - LEFT


async def test_a_worker_with_another_key_says_so_at_its_start_and_nothing_hits(system: KvSystem) -> None:
    messages = question("orchard", 1)
    await system.start_worker("a")
    first = await system.ask("a", messages)
    await system.until_stored(first.prompt_count)
    await system.until_quiet()
    await system.processes["a"].terminate()
    stored = system.blobs()
    stranger = await system.start_worker("b", LOCALCODE_KV_KEY="ab" * 32)
    (event,) = system.events("b", "kv_store_fails")
    assert event["reason"] == "another key"
    assert "LOCALCODE_KV_KEY" in str(event["detail"])
    other = await system.ask("b", messages)
    assert (other.text, other.disk_count) == (ANSWERS["orchard"], 0)
    assert await stranger.terminate() == 0
    assert system.blobs() == stored
    await system.start_worker("a")
    again = await system.ask("a", messages)
    assert again.text == first.text
    assert again.disk_count >= again.prompt_count - LEFT
