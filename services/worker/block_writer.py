"""Writes KV blocks to the store behind the engine's back, as far as `write_policy.py` finds them worth it."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol

import structlog

from services.shared.sealing import BlockHeader, Buffer
from services.worker.block_history import BlockHistory
from services.worker.blocks import BLOCK_TOKENS, Block
from services.worker.measured_rate import MeasuredRate
from services.worker.resting_blocks import RestingBlocks
from services.worker.shared_ends import shared_piece
from services.worker.stored_names import StoredNames
from services.worker.write_policy import (
    BlockCost,
    Origin,
    Part,
    WearBudget,
    quiet_seconds,
    role_of,
    urgency,
    worth_seconds,
)
from services.worker.write_queue import WriteQueue

_LOOK_SECONDS: Final = 1.0  # how often partial blocks are looked through
_LOOKS_PER_REPORT: Final = 10
_RETRY_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 20.0  # how long writing waits for a moment in which no request is computed
_BUSY_SHARE: Final = 0.02  # of the time is spent on writing where none comes: it takes from decoding
_MOST_BUSY_SECONDS: Final = 2.0  # between two blocks, however long one takes
_BUSY_LOOK_SECONDS: Final = 0.2
_CROWDED_SHARE: Final = 0.5  # of what may wait: from here on, writing is no longer put off
_CLOSE_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 600.0  # how long the state of a whole prompt waits for the end of its answer
_SHORTEST_TAIL: Final = 32  # tokens; fewer are computed sooner than they are written
_MOST_REMEMBERED: Final = 65_536
_log = structlog.get_logger(__name__)


class Archive(Protocol):
    """What writing asks of the store. Nothing in it raises."""

    @property
    def is_away(self) -> bool:
        """Whether nobody answered when the store was last asked."""
        ...

    async def put(self, block_hash: bytes, header: BlockHeader, state: Buffer) -> bool:
        """Stores a block."""
        ...

    async def count_tokens(self, computed_count: int) -> bool:
        """Tells the store's statistics how many tokens were computed."""
        ...


class BlockWriter:
    """Takes blocks and writes them when it is their turn; on the event loop."""

    def __init__(
        self, archive: Archive, history: BlockHistory, *, fetch_rate: MeasuredRate, wear: WearBudget,
        find: Callable[[bytes], Block | None], most_waiting_bytes: int,
        is_computing: Callable[[], bool] = lambda: False, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._archive, self._history, self._fetch_rate, self._find = archive, history, fetch_rate, find
        self._is_computing, self._clock = is_computing, clock
        self.wear = wear
        self._queue = WriteQueue(most_waiting_bytes, self._urgency)
        self._tails = RestingBlocks(most_waiting_bytes // 2)
        self._held: dict[bytes, None] = {}
        """Blocks that were not written: not worth it so far, or the store failed."""
        self._stored = StoredNames()
        self._reported_count = 0
        self._is_dropping = False
        self._wake = asyncio.Event()
        self.is_awaited: Callable[[bytes], bool] = lambda _name: False
        """Whether a state is that of a prompt which is being answered."""
        self._tasks = [asyncio.create_task(self._write_full()), asyncio.create_task(self._look_through_tails())]

    async def close(self) -> None:
        """Writes what is waiting, as far as that is worth it and the store is there, then ends."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._write_rest()

    async def _write_rest(self) -> None:
        while block := self._next():
            if not await self._write(block) and self._archive.is_away:
                return
            self._queue.remove(block.hash)
        for _, block in self._tails.rested(now=self._clock()):
            if quiet_seconds(self._origin(block)) is not None:
                await self._write_tail(block)
        await self._report()

    def take(self, block: Block) -> None:
        """Takes a block that the engine has saved."""
        if block.is_whole:
            self._take_state(block)
            return
        shared = shared_piece(block)
        if shared and shared.hash not in self._stored:
            self._enqueue(shared)
        if len(block.tokens) < BLOCK_TOKENS:
            if len(block.tokens) >= _SHORTEST_TAIL:
                self._note_dropped(self._tails.add(block, now=self._clock()))
            return
        self._tails.drop_behind(block.parent)
        if block.hash not in self._stored:
            self._enqueue(block)

    def _take_state(self, state: Block) -> None:
        """Takes the state of a whole sequence; one of a longer prompt makes those before it useless.

        One behind an answer does not: should its text come back as other tokens, the prompt's is the last that fits.
        """
        part = self._origin(state).part
        if part is Part.SYSTEM:
            if state.hash not in self._stored:
                self._enqueue(state)
            return
        if part is Part.HISTORY:
            self._tails.drop_beginnings(state, is_kept=self.is_awaited)
        self._note_dropped(self._tails.add(state, now=self._clock()))

    def reconsider(self, hashes: Iterable[bytes]) -> None:
        """Takes blocks that were held back and have come again, as far as host memory still has them."""
        for name in hashes:
            if name in self._held and (block := self._find(name)):
                self._enqueue(block)

    def note_lookup(self, found: Iterable[bytes], missing: Iterable[bytes]) -> None:
        """Takes note of what the store holds and what it has given up."""
        for name in missing:
            self._stored.forget(name)
        for name in found:
            self._stored.add(name)
            self._held.pop(name, None)

    def has_stored(self, name: bytes) -> bool:
        """Whether the store is taken to hold a block."""
        return name in self._stored

    def note_computed(self, token_count: int) -> None:
        """Counts tokens that were computed: with a bound on wear, more may be written."""
        self.wear.note_computed(token_count)
        self._wake.set()

    def _enqueue(self, block: Block) -> None:
        self._held.pop(block.hash, None)
        self._note_dropped(self._queue.add(block))
        self._wake.set()

    def _note_dropped(self, dropped: list[Block]) -> None:
        if dropped and not self._is_dropping:
            busy = "more is computed than may be written, or can be"
            _log.warning("kv_blocks_not_stored", reason="the store is away" if self._archive.is_away else busy)
        self._is_dropping = bool(dropped)
        for victim in dropped:
            _remember(self._held, victim.hash)

    async def _write_full(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._write_waiting()

    async def _write_waiting(self) -> None:
        pause_seconds = _PAUSE_SECONDS
        while self._next():
            await self._stand_back(pause_seconds)
            if block := self._next():
                started = self._clock()
                await self._write_until_stored(block)
                self._queue.remove(block.hash)  # only now: one that is cut off by the end is written by `close`
                pause_seconds = min((self._clock() - started) * (1 / _BUSY_SHARE - 1), _MOST_BUSY_SECONDS)

    async def _stand_back(self, seconds: float) -> None:
        """Leaves the processor to requests for so long, unless too much is waiting to be written."""
        until = self._clock() + seconds
        while self._is_computing() and self._clock() < until and self._queue.fill < _CROWDED_SHARE:  # noqa: ASYNC110
            await asyncio.sleep(_BUSY_LOOK_SECONDS)

    async def _write_until_stored(self, block: Block) -> None:
        """Writes a block, waiting for a store that is away: with a gap in it nothing behind that would be found."""
        while not await self._write(block) and self._archive.is_away:  # noqa: ASYNC110
            await asyncio.sleep(_RETRY_SECONDS)

    def _next(self) -> Block | None:
        """The next block that is worth writing and may be written; what is not worth it is held back."""
        while block := self._queue.next():
            if self._is_worth_it(block):
                if not self.wear.allows(block.data.nbytes):
                    return None
                return block
            self._queue.remove(block.hash)
            _remember(self._held, block.hash)
        return None

    async def _look_through_tails(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for rested_seconds, block in self._tails.rested(now=self._clock()):
                quiet = quiet_seconds(self._origin(block))
                if quiet is not None and self._is_too_soon(block, rested_seconds, quiet):
                    continue
                if quiet is not None:
                    await self._stand_back(_MOST_BUSY_SECONDS)
                    if block.parent in self._queue or not self._tails.is_latest(block):
                        continue  # of no use before what it follows, or beside a longer one
                    await self._write_tail(block)
                    if self._archive.is_away:
                        break  # and tried again
                self._tails.drop(block)
            looks += 1
            if looks % _LOOKS_PER_REPORT == 0:
                await self._report()

    def _is_too_soon(self, block: Block, rested_seconds: float, quiet_seconds: float) -> bool:
        """Whether a longer block may soon make one superfluous."""
        is_awaited = self.is_awaited(block.hash) and rested_seconds < _ANSWER_SECONDS
        return rested_seconds < quiet_seconds or is_awaited

    async def _write_tail(self, block: Block) -> None:
        if block.is_whole and not self._history.knows(block.hash):
            return  # of a request that gave up its slot, or was cancelled
        own_count = len(block.tokens) - (block.cut[0] if block.cut else 0)
        if own_count >= _SHORTEST_TAIL and self._is_worth_it(block) and self.wear.allows(block.data.nbytes):
            await self._write(block)

    async def _write(self, block: Block) -> bool:
        """Stores a block, and before it the piece of it that it shares with others."""
        if block.hash in self._stored:
            return True
        shared = shared_piece(block)
        if shared and not await self._write(shared):
            return False
        tokens = block.tokens.astype("<i4", copy=False).tobytes()
        base, state = (shared.hash, block.data[shared.data.nbytes :]) if shared else (b"", block.data)
        header = BlockHeader(
            block.parent, tokens, block.recompute_seconds, role_of(self._origin(block)), base, block.is_whole
        )
        self.wear.note_written(state.nbytes)  # before it is, so that nothing else takes the same allowance
        is_stored = await self._archive.put(block.hash, header, state.data)
        if is_stored:
            self._held.pop(block.hash, None)
            self._stored.add(block.hash, parent=block.parent, base=base)
        else:
            self.wear.note_written(-state.nbytes)
            _remember(self._held, block.hash)
        return is_stored

    async def _report(self) -> None:
        count = self.wear.computed_count
        if count > self._reported_count and await self._archive.count_tokens(count - self._reported_count):
            self._reported_count = count

    def _is_worth_it(self, block: Block) -> bool:
        is_reachable = block.parent not in self._held
        return is_reachable and worth_seconds(self._origin(block), self._cost(block)) > 0

    def _urgency(self, block: Block) -> Any:
        return urgency(self._origin(block), self._cost(block))

    def _origin(self, block: Block) -> Origin:
        return self._history.origin(block.hash, block.parent)

    def _cost(self, block: Block) -> BlockCost:
        return BlockCost(block.data.nbytes, block.recompute_seconds, self._fetch_rate.seconds(len(block.tokens)))


def _remember(names: dict[bytes, None], name: bytes) -> None:
    names.pop(name, None)
    names[name] = None
    while len(names) > _MOST_REMEMBERED:
        del names[next(iter(names))]
