"""A system prompt is stored once, wherever in a block it ends."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.block_mover import BlockMover
from services.worker.blocks import BLOCK_TOKENS, HashedTokens, as_tokens, block_hash, stored_pieces
from services.worker.ram_tier import RamTier
from services.worker.shared_ends import FEWEST_TOKENS, SharedEnds
from services.worker.stored_tier import StoredTier
from tests.unit.services.worker.test_stored_tier import FINGERPRINT, MAIN, TITLE, Archive

ANSWER = [9] * 40
BYTES_PER_TOKEN = 4


class Memory:
    """KV memory in which the state of a token is the token."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = as_tokens(tokens)

    def save(self, sequence_id: int, start: int, end: int, *, room: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self.tokens[start:end].view(np.uint8)

    def restore(self, sequence_id: int, data: NDArray[np.uint8], start: int, end: int) -> None:
        raise NotImplementedError


class Worker:
    """A worker that remembers nothing but its store."""

    def __init__(self, archive: Archive) -> None:
        self.ram = RamTier(1_000_000)
        self.tier = StoredTier(self.ram, archive, fingerprint=FINGERPRINT)

    async def ask(self, prompt: Sequence[int], *, system: int, kind: "pb.RequestClass.ValueType" = MAIN) -> int:
        """Answers, and says how many tokens of the prompt came from the store."""
        visit = await self.tier.begin(prompt, request_class=kind, system_token_count=system, prefill_rate=1.0)
        wanted = HashedTokens(prompt, FINGERPRINT)
        pieces = stored_pieces(wanted, self.ram, start=0, limit=len(wanted) - 1)
        for piece in pieces:
            block = self.ram.peek(piece.hash)
            assert block is not None
            assert block.data.tobytes() == block.tokens.tobytes()
        tokens = [*prompt, *ANSWER]
        self.tier.end(visit, tokens, computed_count=len(tokens), goes_on=False)
        mover, known = BlockMover(Memory(tokens), self.ram), HashedTokens(tokens, FINGERPRINT)
        for index in range(known.block_count):
            mover.save(0, known, index, prefill_rate=1.0)
        return pieces[-1].end if pieces else 0


async def asked_by_new_workers(
    archive: Archive, prompts: Sequence[Sequence[int]], *, system: int, kind: "pb.RequestClass.ValueType" = MAIN
) -> list[int]:
    found = []
    for prompt in prompts:
        worker = Worker(archive)
        found.append(await worker.ask(prompt, system=system, kind=kind))
        await asyncio.sleep(0)
        await worker.tier.close()
    return found


def state_bytes(archive: Archive) -> int:
    return sum(len(state) for _, state in archive.blocks.values())


@pytest.mark.parametrize("over", [0, 1, 20, 31, 32, 100, 128, 200, 250, 255])
async def test_ten_conversations_over_one_prompt_store_it_once_wherever_it_ends(over: int) -> None:
    archive, system = Archive(), list(range(10 * BLOCK_TOKENS + over))
    prompts = [[*system, *([-number] * 240)] for number in range(1, 11)]
    found = await asked_by_new_workers(archive, prompts, system=len(system))
    all_once = len(system) + 10 * (240 + len(ANSWER))
    assert state_bytes(archive) <= 1.1 * BYTES_PER_TOKEN * all_once
    assert found[1:] == [len(system)] * 9
    again = [[*prompt, *ANSWER, 7, 7] for prompt in prompts]
    stored = await asked_by_new_workers(archive, again, system=len(system))
    assert min(stored) >= len(prompts[0]) + len(ANSWER) - FEWEST_TOKENS


async def test_a_conversation_whose_end_lies_in_the_block_where_its_system_text_ends_is_found() -> None:
    archive, system = Archive(), list(range(BLOCK_TOKENS + 100))
    prompts = [[*system, *([-number] * 50)] for number in (1, 2)]
    await asked_by_new_workers(archive, prompts, system=len(system))
    again = [[*prompt, *ANSWER, 7] for prompt in prompts]
    assert await asked_by_new_workers(archive, again, system=len(system)) == [BLOCK_TOKENS + 190] * 2
    assert {len(state) // BYTES_PER_TOKEN for _, state in archive.blocks.values()} == {BLOCK_TOKENS, 100, 90, 131}


async def test_what_titles_share_is_stored_once_it_has_come_twice_and_nothing_else_of_them() -> None:
    archive, system = Archive(), list(range(BLOCK_TOKENS + 100))
    prompts = [[*system, *([-number] * 300)] for number in (1, 2, 3)]
    worker = Worker(archive)
    found = []
    for prompt in prompts:
        worker.ram.clear()
        found.append(await worker.ask(prompt, system=len(system), kind=TITLE))
        await asyncio.sleep(0.1)
    await worker.tier.close()
    assert found == [0, 0, len(system)]
    assert state_bytes(archive) == BYTES_PER_TOKEN * len(system)


async def test_a_block_whose_shared_piece_is_lost_is_a_miss_and_both_are_written_again() -> None:
    archive, system = Archive(), list(range(BLOCK_TOKENS + 100))
    prompt = [*system, *([-1] * 400)]
    await asked_by_new_workers(archive, [prompt], system=len(system))
    key = HashedTokens(prompt, FINGERPRINT)
    piece = block_hash(key.parent(1), key.block(1)[:100])
    del archive.blocks[piece]
    assert await asked_by_new_workers(archive, [prompt], system=len(system)) == [BLOCK_TOKENS]
    assert piece in archive.blocks
    assert await asked_by_new_workers(archive, [prompt], system=len(system)) == [len(prompt) - 1]


@pytest.mark.parametrize("other", [0, 1], ids=["the same prompt", "another prompt"])
@pytest.mark.parametrize("extent", ["alone", "with what follows it", "with all before it too"])
async def test_a_worker_stores_a_piece_again_that_the_store_gave_up(other: int, extent: str) -> None:
    archive, system = Archive(), list(range(BLOCK_TOKENS + 100))
    prompts = [[*system, *([-1] * 400)], [*system, *([-1 - other] * 400)]]
    worker = Worker(archive)
    await worker.ask(prompts[0], system=len(system))
    await settled(worker)
    key = HashedTokens(prompts[0], FINGERPRINT)
    piece = block_hash(key.parent(1), key.block(1)[:100])
    later = [name for name, (header, _) in archive.blocks.items() if header.is_after != FINGERPRINT]
    gone = {"alone": [piece], "with what follows it": later, "with all before it too": list(archive.blocks)}
    for name in gone[extent]:
        del archive.blocks[name]
    for _ in range(2 if extent == "alone" else 1):  # only by reading what needs it is it found to be missing alone
        await worker.ask(prompts[1], system=len(system))
        await settled(worker)
    assert piece in archive.blocks
    assert await worker.ask(prompts[1], system=len(system)) >= 2 * BLOCK_TOKENS
    await worker.tier.close()


async def settled(worker: Worker) -> None:
    """Lets what waits be written, and forgets what memory holds."""
    await asyncio.sleep(0.05)
    worker.ram.clear()


def test_the_longest_end_that_a_block_goes_on_behind_counts() -> None:
    ends = SharedEnds()
    short, longer = as_tokens(range(40)), as_tokens(range(80))
    name = ends.note(b"p", short)
    assert name == block_hash(b"p", short)
    assert ends.note(b"p", longer)
    assert [ends.length(b"p", as_tokens(range(count))) for count in (40, 41, 80, 256)] == [0, 40, 40, 80]
    assert ends.length(b"p", as_tokens([5] * 256)) == ends.length(b"q", as_tokens(range(256))) == 0
    assert ends.note(b"p", as_tokens(range(FEWEST_TOKENS - 1))) is None
    assert ends.note(b"p", as_tokens(range(BLOCK_TOKENS))) is None


def test_ends_are_bounded() -> None:
    ends = SharedEnds()
    for number in range(3000):
        ends.note(b"%d" % (number // 20), as_tokens([number] * 40))
        ends.note(b"other %d" % number, as_tokens([number] * 40))
    assert ends.length(b"0", as_tokens([0] * 50)) == 0
    assert ends.length(b"149", as_tokens([2999] * 50)) == 40
    assert ends.length(b"149", as_tokens([2980] * 50)) == 0
