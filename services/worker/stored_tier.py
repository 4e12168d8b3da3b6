"""The tiers below host memory: KV blocks in the store of the cache service, which outlive this process.

What the engine gives to host memory is written behind its back (`block_writer.py`), as far as that is worth it. Before
a request is queued, what the store holds of its prompt is brought into host memory, from where the engine restores it
like everything else; what will be asked for soon is brought there ahead (`prefetch.py`).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.block_client import HotBlock, NextBlock, OpenedBlock, StoredChain
from services.worker import block_writer
from services.worker.block_history import BlockHistory
from services.worker.block_writer import BlockWriter
from services.worker.blocks import (
    BLOCK_TOKENS,
    Block,
    HashedTokens,
    Tokens,
    as_tokens,
    block_hash,
    block_hashes,
    shared_token_count,
)
from services.worker.measured_rate import MeasuredRate
from services.worker.prefetch import Prefetcher
from services.worker.ram_tier import RamTier
from services.worker.shared_ends import SharedEnds
from services.worker.stored_blocks import read_block
from services.worker.write_policy import WearBudget

_MOST_WAITING_SHARE: Final = 0.5  # of host memory's budget: what waits to be written may have left it
_MOST_BRANCHES: Final = 4  # blocks behind the longest stored beginning that are looked into for a partial match


class BlockArchive(block_writer.Archive, Protocol):
    """The store of blocks (`BlockClient`). Nothing in it raises: what fails is a miss."""

    @property
    def is_remote(self) -> bool:
        """Whether blocks come through the cache service."""
        ...

    async def lookup(self, hashes: Sequence[bytes], *, peek: bool = False) -> StoredChain:
        """Finds the longest stored beginning of a chain."""
        ...

    async def find_states(self, places: Sequence[bytes], hashes: Sequence[bytes]) -> StoredChain:
        """Finds states of whole sequences by name and behind places of a prompt."""
        ...

    async def hottest(self, *, max_bytes: int) -> Sequence[HotBlock]:
        """Finds the most valuable blocks that have so many bytes together, each behind its parent."""
        ...

    async def release(self, chain: StoredChain, *, used: Sequence[bytes] = ()) -> None:
        """Ends the lease of a lookup."""
        ...

    async def get(self, block_hash: bytes) -> OpenedBlock | None:
        """Reads a block."""
        ...


@dataclass(frozen=True)
class Arrival:
    """A prompt that arrives."""

    wanted: HashedTokens
    request_class: "pb.RequestClass.ValueType"
    system_token_count: int
    """Its first tokens that are tools and system text."""
    checkpoints: Sequence[int]
    """Its lengths at which states of whole sequences are kept, rising."""


@dataclass(eq=False)
class Visit:
    """A request, as far as the store has to do with it."""

    hashes: tuple[bytes, ...]
    """Of the prompt's full blocks, or of the states of whole sequences that it holds."""
    request_class: "pb.RequestClass.ValueType"
    fetched_count: int
    """Tokens whose state was brought into host memory for it."""
    fetch_seconds: float
    """How long that took."""
    is_remote: bool
    """Whether it came through the cache service instead of from a directory."""
    returning_count: int
    """Tokens at the prompt's beginning, in whole blocks, that an earlier prompt had too."""
    is_open: bool = True


class StoredTier:
    """Moves blocks between host memory and the store, on the event loop; never in the engine's way."""

    def __init__(
        self, ram: RamTier, archive: BlockArchive, *, fingerprint: bytes, written_bytes_per_token: int | None = None,
        is_computing: Callable[[], bool] = lambda: False, shares_processor: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._ram, self._archive, self._fingerprint, self._clock = ram, archive, fingerprint, clock
        self._history = BlockHistory()
        self._shared_ends = SharedEnds()
        self._fetch_rate = MeasuredRate()
        self._fetching_count = 0
        self._loop = asyncio.get_running_loop()
        self.writer = BlockWriter(
            archive, self._history, fetch_rate=self._fetch_rate, wear=WearBudget(written_bytes_per_token),
            find=ram.peek, most_waiting_bytes=int(ram.budget_bytes * _MOST_WAITING_SHARE),
            is_computing=is_computing if shares_processor else lambda: False, clock=clock,
        )  # fmt: skip
        self.prefetcher = Prefetcher(
            ram, archive, self._read, is_fetching=lambda: self._fetching_count > 0, is_computing=is_computing
        )
        self._tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self.prefetcher.run())]
        ram.on_put = self._note_put
        ram.expected_uses = self._history.expected_uses
        ram.cut_length = self._shared_ends.length

    def warm(self, max_bytes: int) -> None:
        """Begins to fill host memory with the most valuable blocks of the store, in the background."""
        if max_bytes:
            self._tasks.append(asyncio.create_task(self.prefetcher.warm(max_bytes)))

    async def close(self) -> None:
        """Writes what is waiting, then ends."""
        self._ram.on_put = None
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        await self.writer.close()

    async def begin(
        self, tokens: Sequence[int], *, request_class: "pb.RequestClass.ValueType", system_token_count: int,
        prefill_rate: float, checkpoints: Sequence[int] = (),
    ) -> Visit:  # fmt: skip
        """Takes note of a prompt that arrives, the first tokens of which are tools and system text, and fetches.

        `checkpoints` are its lengths at which states of whole sequences are kept, rising.
        """
        wanted = await asyncio.to_thread(HashedTokens, tokens, self._fingerprint)
        arrival = Arrival(wanted, request_class, system_token_count, checkpoints)
        names, returning_count = self._note_arrival(arrival)
        self.writer.reconsider(names)
        started = self._clock()
        count = await self.fetch(wanted, names, prefill_rate=prefill_rate)
        seconds = self._clock() - started if count else 0.0
        return Visit(names, request_class, count, seconds, self._archive.is_remote, returning_count)

    def _note_arrival(self, arrival: Arrival) -> tuple[tuple[bytes, ...], int]:
        """The names of a prompt's full blocks, and how many of its tokens an earlier prompt had too."""
        wanted = arrival.wanted
        hashes = tuple(wanted.hash(index) for index in range(len(wanted) // BLOCK_TOKENS))
        returning = next((i for i, name in enumerate(hashes) if not self._history.seen_count(name)), len(hashes))
        block_count = arrival.system_token_count // BLOCK_TOKENS
        self._history.note_prompt(hashes, request_class=arrival.request_class, system_block_count=block_count)
        self._note_shared_end(arrival)
        return hashes, returning * BLOCK_TOKENS

    def _note_shared_end(self, arrival: Arrival) -> None:
        wanted = arrival.wanted
        index, count = divmod(min(arrival.system_token_count, len(wanted)), BLOCK_TOKENS)
        if name := self._shared_ends.note(wanted.parent(index), wanted.block(index)[:count]):
            self._history.note_shared_end(name, request_class=arrival.request_class)

    def end(self, visit: Visit, tokens: Sequence[int], *, computed_count: int, goes_on: bool) -> None:
        """Takes note of what became of a request: the tokens of its sequence, and how many of them were computed.

        `goes_on` says that the answer called a tool: the next prompt will begin with all of this. Only the first call
        for a request counts.
        """
        if not visit.is_open:
            return
        visit.is_open = False
        full, last = self._names_of(visit, tokens)
        self._history.note_answer((*full, last), request_class=visit.request_class, goes_on=goes_on)
        self.writer.note_computed(computed_count)
        if goes_on:
            self.writer.reconsider(full)  # what was held back while nobody knew that it goes on
            self._expect(full)

    def _names_of(self, visit: Visit, tokens: Sequence[int]) -> tuple[tuple[bytes, ...], bytes]:
        """The names of the full blocks of a sequence, and of its last, partial one."""
        parent = visit.hashes[-1] if visit.hashes else self._fingerprint
        behind = as_tokens(tokens[len(visit.hashes) * BLOCK_TOKENS :])
        full = (*visit.hashes, *block_hashes(behind, parent))
        tail = behind[len(behind) // BLOCK_TOKENS * BLOCK_TOKENS :]
        return full, block_hash(full[-1] if full else self._fingerprint, tail)

    def _expect(self, names: Sequence[bytes]) -> None:
        """Has brought into host memory what the next prompt will begin with."""
        self.prefetcher.expect(names)

    async def fetch(self, wanted: HashedTokens, names: Sequence[bytes] = (), *, prefill_rate: float) -> int:
        """Brings into host memory what is stored of a prompt and not there; returns how many tokens that was.

        `names` are those of a visit.
        """
        if not self._fetch_rate.beats(prefill_rate):
            self._fetch_rate.recover()
            return 0
        self._fetching_count += 1
        try:
            return await self._fetch(wanted)
        finally:
            self._fetching_count -= 1

    async def _fetch(self, wanted: HashedTokens) -> int:
        hashes = [wanted.hash(index) for index in range((len(wanted) - 1) // BLOCK_TOKENS)]
        known = next((index for index, name in enumerate(hashes) if not self._ram.contains(name)), len(hashes))
        if known == len(hashes) and self._ram.contains(wanted.hash(known)):
            return 0
        chain = await self._archive.lookup(hashes)
        self.writer.note_lookup(chain.hashes, hashes[len(chain.hashes) :])
        following = [*chain.next[:_MOST_BRANCHES], *await self._behind_shared_end(wanted, chain)]
        started = self._clock()
        parent, rest = wanted.parent(len(chain.hashes)), wanted.block(len(chain.hashes))
        had = max((shared_token_count(rest, tokens) for _, tokens in self._ram.children(parent)), default=0)
        branches = [block.hash for block in following if block.token_count > had and not self._ram.contains(block.hash)]
        blocks = await asyncio.gather(*map(self._read_and_keep, [*chain.hashes[known:], *branches]))
        used = self._best_match(rest, branches)
        await self._archive.release(chain, used=[used] if used else [])
        count = sum(blocks)
        if count:
            self._fetch_rate.observe(count, self._clock() - started)
        return count

    async def _behind_shared_end(self, wanted: HashedTokens, chain: StoredChain) -> Sequence[NextBlock]:
        """Finds what is stored behind the piece in which a prompt's system text ends, if the chain ends before that."""
        index = len(chain.hashes)
        parent, tokens = wanted.parent(index), wanted.block(index)
        length = self._shared_ends.length(parent, tokens)
        name = block_hash(parent, tokens[:length])
        if not length:
            return ()
        if all(block.hash != name for block in chain.next):
            self.writer.note_lookup((), [name])
            return ()
        behind = await self._archive.lookup([*chain.hashes, name], peek=True)
        return behind.next[:_MOST_BRANCHES]

    def _best_match(self, tokens: Tokens, names: Sequence[bytes]) -> bytes | None:
        """Of some blocks, the one in host memory that begins most like some tokens: only that is of any use."""
        blocks = [block for name in names if (block := self._ram.peek(name))]
        counts = {block.hash: shared_token_count(tokens, block.tokens) for block in blocks}
        return max((name for name, count in counts.items() if count), key=counts.__getitem__, default=None)

    async def _read_and_keep(self, name: bytes) -> int:
        block = await self._read(name)
        if block is None:
            return 0
        self._ram.keep(block)
        return len(block.tokens)

    async def _read(self, name: bytes) -> Block | None:
        block = await read_block(self._archive.get, name)
        if block is None:
            self.writer.note_lookup((), [name])  # also if a piece of it is missing: both are written when they come
        return block

    def _note_put(self, block: Block) -> None:
        """Called by the engine thread."""
        self._loop.call_soon_threadsafe(self.writer.take, block)
