"""What of the states of whole sequences is written to the block store and read back."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from structlog.testing import capture_logs

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.block_client import NextBlock, OpenedBlock, StoredChain
from services.shared.sealing import BlockRole
from services.worker import block_writer, write_policy
from services.worker.blocks import BLOCK_TOKENS, HashedTokens
from services.worker.checkpoints import Checkpoint, Checkpoints, longest_named, longest_state, places, state_name
from services.worker.ram_tier import RamTier
from services.worker.stored_states import StoredStates
from services.worker.stored_tier import Visit
from tests.unit.services.worker.test_stored_tier import FINGERPRINT, Archive, until_put

SYSTEM = 300
TOKENS = list(range(1000))


class Memory:
    """A model whose state is the sum of its tokens."""

    def __init__(self) -> None:
        self.restored: list[int] = []

    def save_whole(self, sequence_id: int) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
        return np.full(8, sequence_id, np.uint8)

    def restore_whole(self, sequence_id: int, data: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> None:
        self.restored.append(int(data[0]))


class StateArchive(Archive):
    """A store that finds states by place, and can't open some."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged: set[bytes] = set()

    async def get(self, block_hash: bytes) -> OpenedBlock | None:
        return None if block_hash in self.damaged else await super().get(block_hash)

    async def find_states(self, places: Sequence[bytes], hashes: Sequence[bytes]) -> StoredChain:
        self.lookups += 1
        found = [name for name in hashes if name in self.blocks]
        found += [name for name, (header, _) in self.blocks.items() if header.is_whole and header.parent in places]
        states = (NextBlock(name, self.blocks[name][0].token_count, len(self.blocks[name][1])) for name in found)
        return StoredChain(next=tuple(states), lease_id="lease")


@pytest.fixture
def archive() -> StateArchive:
    return StateArchive()


class Worker:
    """One process: host memory, what fills it from the store, and an engine that saves states."""

    def __init__(self, archive: StateArchive, *, ram_bytes: int = 10_000) -> None:
        self.ram = RamTier(ram_bytes)
        self.tier = StoredStates(self.ram, archive, fingerprint=FINGERPRINT)
        self.checkpoints = Checkpoints(Memory(), self.ram)

    async def begin(
        self, tokens: Sequence[int], *, kind: "pb.RequestClass.ValueType" = pb.REQUEST_CLASS_MAIN,
        prefill_rate: float = 0.0, question: int | None = None,
    ) -> Visit:  # fmt: skip
        ends = sorted({SYSTEM, question or len(tokens) - 1, len(tokens) - 1})
        return await self.tier.begin(
            tokens, request_class=kind, system_token_count=SYSTEM, prefill_rate=prefill_rate, checkpoints=ends
        )

    async def save(self, tokens: Sequence[int]) -> None:
        self.checkpoints.save(1, HashedTokens(tokens, FINGERPRINT), prefill_rate=100.0)
        await asyncio.sleep(0)

    async def turn(
        self, prompt: Sequence[int], answered: Sequence[int], *, goes_on: bool = False, question: int | None = None
    ) -> Visit:
        """A request from its arrival to its end: its prompt was `prompt`, and with the answer it is `answered`."""
        visit = await self.begin(prompt, question=question)
        for length in (SYSTEM, len(prompt) - 1):
            await self.save(prompt[:length])
        await self.save(answered)
        self.tier.end(visit, answered, computed_count=1, goes_on=goes_on)
        return visit


def lengths(archive: StateArchive) -> list[int]:
    return sorted(header.token_count for header, _ in archive.blocks.values())


async def test_a_state_is_found_by_a_prompt_that_goes_on_from_it_in_another_process(archive: StateArchive) -> None:
    first = Worker(archive)
    await first.turn(TOKENS[:500], TOKENS[:600])
    await first.tier.close()
    second = Worker(archive)
    visit = await second.begin(TOKENS)
    assert visit.fetched_count == 600
    assert longest_state(HashedTokens(TOKENS, FINGERPRINT), second.ram) == Checkpoint(
        state_name(HashedTokens(TOKENS, FINGERPRINT), 600), 600
    )
    assert (await second.begin(TOKENS)).fetched_count == 0
    other = [*TOKENS[:550], *range(5000, 5100)]
    assert (await Worker(archive).begin(other)).fetched_count == 499
    assert (await Worker(archive).begin([*TOKENS[:SYSTEM], 9, 9])).fetched_count == SYSTEM
    assert (await Worker(archive).begin([9, *TOKENS])).fetched_count == 0
    await second.tier.close()


async def test_each_use_of_a_stored_state_is_counted_also_from_memory_and_each_lease_ended(
    archive: StateArchive,
) -> None:
    first = Worker(archive)
    await first.turn(TOKENS[:500], TOKENS[:600])
    await first.tier.close()
    archive.released.clear()
    second = Worker(archive)
    for wanted in (TOKENS, TOKENS, [9, *TOKENS]):
        await second.begin(wanted)
    name = state_name(HashedTokens(TOKENS, FINGERPRINT), 600)
    assert archive.released == [(name,), (name,), ()]


async def test_of_a_conversation_only_its_last_question_prompt_and_answer_are_written(archive: StateArchive) -> None:
    worker = Worker(archive)
    for start in (400, 600, 800):
        await worker.turn(TOKENS[:start], TOKENS[: start + 100], goes_on=True, question=399)
    await worker.tier.close()
    assert lengths(archive) == [SYSTEM, 399, 799, 900]


async def test_of_a_conversation_with_a_new_question_the_one_before_is_not_written(archive: StateArchive) -> None:
    worker = Worker(archive)
    for start in (400, 600):
        await worker.turn(TOKENS[:start], TOKENS[: start + 100])
    await worker.tier.close()
    assert lengths(archive) == [SYSTEM, 599, 700]


async def test_a_state_that_takes_longer_to_read_than_to_compute_is_left_alone_for_a_while(
    archive: StateArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Worker(archive)
    await first.turn(TOKENS[:500], TOKENS[:600])
    await first.tier.close()
    second = Worker(archive)
    second.tier._byte_rate.observe(1, 1000.0)
    for _ in range(3):
        assert (await second.begin(TOKENS, prefill_rate=1e6)).fetched_count == 0
    assert (await second.begin(TOKENS, prefill_rate=0.01)).fetched_count == 600


async def test_what_the_store_has_given_up_is_written_again_when_a_prompt_needs_it(archive: StateArchive) -> None:
    worker = Worker(archive)
    await worker.turn(TOKENS[:500], TOKENS[:600])
    await until_put(archive, 1)
    archive.blocks.clear()
    await worker.begin([*TOKENS[:SYSTEM], *range(7000, 7100)])
    await until_put(archive, 2)
    assert lengths(archive) == [SYSTEM]
    await worker.tier.close()


async def test_what_no_end_of_a_request_has_named_is_not_written(archive: StateArchive) -> None:
    worker = Worker(archive)
    await worker.begin(TOKENS[:500])
    await worker.save(TOKENS[:550])  # it gave up its slot for another one
    await worker.tier.close()
    assert lengths(archive) == []


async def test_what_ends_the_system_text_is_written_at_once_and_under_that_role(archive: StateArchive) -> None:
    worker = Worker(archive)
    await worker.turn(TOKENS[:500], TOKENS[:600])
    await until_put(archive, 1)
    ((header, _),) = archive.blocks.values()
    assert (header.token_count, header.role, header.is_whole) == (SYSTEM, BlockRole.SYSTEM, True)
    await worker.tier.close()


async def test_the_state_of_a_prompt_is_not_written_while_its_answer_is_computed(
    archive: StateArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_writer, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(write_policy, "_QUIET_SECONDS", 0.02)
    worker = Worker(archive)
    visit = await worker.begin(TOKENS[:500])
    for length in (SYSTEM, 499):
        await worker.save(TOKENS[:length])
    await asyncio.sleep(0.3)
    assert lengths(archive) == [SYSTEM]
    await worker.save(TOKENS[:600])
    worker.tier.end(visit, TOKENS[:600], computed_count=1, goes_on=False)
    await until_put(archive, 3)
    assert lengths(archive) == [SYSTEM, 499, 600]
    await worker.tier.close()


async def test_a_title_leaves_nothing_in_the_store(archive: StateArchive) -> None:
    worker = Worker(archive)
    visit = await worker.begin(TOKENS[:500], kind=pb.REQUEST_CLASS_TITLE)
    assert visit.returning_count == 0
    await worker.save(TOKENS[:550])  # it gave up its slot for another one
    await worker.save(TOKENS[:499])
    worker.tier.end(visit, TOKENS[:550], computed_count=1, goes_on=False)
    await worker.tier.close()
    assert not archive.blocks


async def test_states_that_wait_take_no_more_memory_than_they_may(archive: StateArchive) -> None:
    worker = Worker(archive, ram_bytes=96)  # a quarter of it may rest: three states
    with capture_logs() as logs:
        for first in range(2000, 2010):
            text = [*TOKENS[:SYSTEM], *range(first, first + 220)]
            await worker.turn(text[:-20], text)
        await worker.tier.close()
    assert len(archive.blocks) == 1 + 3
    assert [entry["event"] for entry in logs] == ["kv_blocks_not_stored"]


async def test_a_damaged_state_is_not_kept(archive: StateArchive) -> None:
    first = Worker(archive)
    await first.turn(TOKENS[:500], TOKENS[:600])
    await first.tier.close()
    name = state_name(HashedTokens(TOKENS, FINGERPRINT), 600)
    archive.damaged.add(name)
    second = Worker(archive)
    assert (await second.begin(TOKENS)).fetched_count == 0
    assert not second.ram.contains(name)


def test_a_state_may_end_anywhere_also_where_a_block_does() -> None:
    ram, known = RamTier(100_000), HashedTokens(TOKENS, FINGERPRINT)
    checkpoints = Checkpoints(Memory(), ram)
    for length in (20, BLOCK_TOKENS - 1, BLOCK_TOKENS, BLOCK_TOKENS + 1, 3 * BLOCK_TOKENS):
        checkpoints.save(1, known.truncated(length), prefill_rate=1.0)
        for beginning in (known, known.truncated(length + 1)):
            assert checkpoints.longest(beginning) == Checkpoint(state_name(known, length), length)
        assert checkpoints.longest(known.truncated(length)) != Checkpoint(state_name(known, length), length)
    assert len(ram) == 5
    assert places(known.truncated(BLOCK_TOKENS + 1)) == places(known)[:1]
    assert places(known.truncated(BLOCK_TOKENS + 2)) == places(known)[:2]


def test_only_a_name_that_a_prompt_gives_itself_is_believed() -> None:
    known = HashedTokens(TOKENS, FINGERPRINT)
    other = HashedTokens(TOKENS[::-1], FINGERPRINT)
    found = [(state_name(known, 10), 10), (state_name(other, 600), 600), (state_name(known, 20), 30), (bytes(32), 0)]
    assert longest_named(known, found) == Checkpoint(state_name(known, 10), 10)
    assert longest_named(known, [(state_name(known, 1000), 1000)]) is None


def test_a_restored_state_is_the_one_that_was_saved() -> None:
    memory, ram, known = Memory(), RamTier(1000), HashedTokens(TOKENS, FINGERPRINT)
    checkpoints = Checkpoints(memory, ram)
    checkpoints.save(7, known.truncated(500), prefill_rate=1.0)
    checkpoint = checkpoints.longest(known)
    assert checkpoint is not None
    checkpoints.restore(2, checkpoint)
    assert memory.restored == [7]
    ram.clear()
    with pytest.raises(KeyError):
        checkpoints.restore(2, checkpoint)
