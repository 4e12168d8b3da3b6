"""Sequences and their cells, and how parked ones give them up: block by block from the end, into a store below."""

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

import structlog

from services.worker.block_mover import BlockMover, Saving, StateMemory
from services.worker.blocks import BLOCK_TOKENS, BlockStore
from services.worker.cells import CellLedger
from services.worker.checkpoints import WholeStateMemory
from services.worker.kv_state import StateLost
from services.worker.parking import BlockUses, Match, Parked, least_valuable
from services.worker.radix import RadixTree

_log = structlog.get_logger(__name__)
_HURRY_SECONDS: Final = 0.1  # how long a step may wait for a conversation to be saved that must go at once
PAUSE_SECONDS: Final = 0.02  # the same while answers are being decoded, and for blocks that make room
_SHORTEST_SECONDS: Final = 0.002  # in less, no part of a block is worth beginning
_RESERVE_CELLS: Final = 2 * BLOCK_TOKENS  # kept free while others work, so that room is made before it is needed
_MOST_RESERVED_SHARE: Final = 1 / 16


class KvMemory(StateMemory, WholeStateMemory, Protocol):
    """llama.cpp's side of the cache (`KvState`)."""

    def fork(self, source_id: int, target_id: int, length: int) -> None:
        """Lets a sequence share the first cells of another one."""
        ...

    def extended(self, sequence_id: int, start: int, end: int) -> None:
        """Takes note of cells that were added to a sequence."""
        ...

    def remove(self, sequence_id: int, start: int = 0) -> bool:
        """Drops a sequence from a position on."""
        ...

    def holds(self, sequence_id: int, length: int) -> bool:
        """Whether the first positions of a sequence are all there."""
        ...


class ParkedSequences:
    """Knows which cells belong to which sequence, and takes them from those that nobody generates from."""

    def __init__(
        self, memory: KvMemory, *, cells: int, sequences: int, parked_cells: int, store: BlockStore | None,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._memory, self._clock = memory, clock
        self._mover = BlockMover(memory, store, clock=clock) if store is not None else None
        self._ledger = CellLedger(cells)
        self._tree = RadixTree()
        self.sequence_count = sequences
        """Sequence ids, those that run and those that may be parked."""
        self._free_ids = list(range(sequences - 1, -1, -1))
        self._parked: dict[int, Parked] = {}
        self._uses = BlockUses()
        self._max_parked_cells = parked_cells
        self._protected_id: int | None = None
        self._is_streaming = False
        """Whether answers were being decoded in the last step."""
        self._prefill_rate = 0.0
        self._parked_cells = 0
        self._parked_changed = False
        """Whether parked cells must be counted anew, which takes too long for every step."""

    @property
    def used_cells(self) -> int:
        """Cells in use."""
        return self._ledger.used_count

    @property
    def cell_count(self) -> int:
        """Cells in all."""
        return self._ledger.cell_count

    @property
    def parked_count(self) -> int:
        """Parked sequences."""
        return len(self._parked)

    @property
    def parked_cells(self) -> int:
        """Cells that only parked sequences use, as of the latest step."""
        return self._parked_cells

    @property
    def is_untidy(self) -> bool:
        """Whether parked state is left that the store has not been given."""
        return self._mover is not None and self._next_unsaved() is not None

    def lengths(self) -> dict[int, int]:
        """Tokens in cells, by sequence."""
        return self._ledger.lengths()

    def extend(self, sequence_id: int, count: int) -> None:
        """Takes cells for tokens that were computed; `make_room` must have found them."""
        length = self._ledger.length(sequence_id)
        self._ledger.extend(sequence_id, count)
        self._memory.extended(sequence_id, length, length + count)

    def truncate(self, sequence_id: int, length: int) -> None:
        """Drops a sequence's tokens behind a length."""
        self._memory.remove(sequence_id, length)
        self._ledger.truncate(sequence_id, length)
        self._tree.truncate(sequence_id, length)

    @property
    def free_cells(self) -> int:
        """Cells that no sequence uses."""
        return self._ledger.free_count

    def make_room(self, count: int, *, except_id: int | None = None, seconds: float = math.inf) -> bool:
        """Moves parked blocks to the store, or drops them, until so many cells are free or the time is over."""
        deadline = self._clock() + seconds
        while self._ledger.free_count < count:
            victim, left = self._victim(except_id), deadline - self._clock()
            if victim is None or left < _SHORTEST_SECONDS:
                return False
            self._shrink(victim, seconds=left)
        return True

    def clear_the_way(self, wanted: Iterable[Match] = ()) -> None:
        """Lets parked sequences give up what is beyond their budget, before a request takes cells beside no other.

        Attention runs up to the highest cell in use: moved later, what lies before the request's own cells would slow
        it to its end. What is wanted of a parked sequence stays, in whole blocks, and does not count.
        """
        kept: dict[int, int] = {}
        for match in wanted:
            if match.sequence_id in self._parked:
                kept[match.sequence_id] = max(match.length, kept.get(match.sequence_id, 0))
        most = self._max_parked_cells + sum(self._in_whole_blocks(*one) for one in kept.items())
        deadline = self._clock() + _HURRY_SECONDS
        while self._ledger.exclusive_count(set(self._parked)) > most:
            victim, left = self._victim(kept=kept), deadline - self._clock()
            if victim is None or left < _SHORTEST_SECONDS:
                break
            self._shrink(victim, seconds=left)

    def can_free_cells(self, *, except_id: int | None = None) -> bool:
        """Whether anything is parked that could make room."""
        return self._victim(except_id) is not None

    def close(self, sequence_id: int) -> None:
        """Forgets a running sequence."""
        self._memory.remove(sequence_id)
        self._ledger.release(sequence_id)
        self._tree.remove(sequence_id)
        self._free_ids.append(sequence_id)
        self._parked_changed = True  # cells that it shared belong to parked ones alone

    def drop_parked(self) -> None:
        """Forgets all parked sequences."""
        for parked in list(self._parked.values()):
            self._drop(parked)

    def _tidy(self, *, is_busy: bool, seconds: float) -> bool:
        """Saves one block, or as much of one as can be copied in a time; False if nothing is left to do."""
        if is_busy:
            while self._has_too_much() and (victim := self._victim()):
                if self._shrink(victim, seconds=seconds):
                    return True
            return False
        unsaved = self._next_unsaved() if self._mover else None
        if unsaved:
            self._save(unsaved, unsaved.tried_block_count, seconds=seconds)
        return unsaved is not None

    def _can_save_more(self, seconds: float) -> bool:
        return self._mover is not None and self._mover.can_save_block(seconds)

    def _next_unsaved(self) -> Parked | None:
        return next((one for one in self._parked.values() if one.tried_block_count < one.known.block_count), None)

    def _has_too_much(self) -> bool:
        """Whether what is parked slows others too much, or leaves them too few cells."""
        self._count_parked()
        reserve = min(_RESERVE_CELLS, int(self._ledger.cell_count * _MOST_RESERVED_SHARE))
        return self._parked_cells > self._max_parked_cells or self._ledger.free_count < reserve

    def _count_parked(self) -> None:
        if self._parked_changed:
            self._parked_cells = self._ledger.exclusive_count(set(self._parked))
            self._parked_changed = False

    def _victim(
        self, except_id: int | None = None, *, is_whole: bool = False, kept: Mapping[int, int] = MappingProxyType({})
    ) -> Parked | None:
        """The parked sequence to take its last block from, or all that it shares with no other one.

        One that shares all its cells frees none and comes last. `kept` says how many tokens of sequences must stay.
        """
        spared = {except_id, self._protected_id}
        candidates = [
            one for one in self._parked.values()
            if one.sequence_id not in spared and _last_block(one) * BLOCK_TOKENS >= kept.get(one.sequence_id, 0)
        ]  # fmt: skip
        freeing = [one for one in candidates if self._ledger.released_by(one.sequence_id)]
        block_of = self._first_own_block if is_whole else _last_block
        return least_valuable(freeing or candidates, self._uses, block_of=block_of, now=self._clock())

    def _in_whole_blocks(self, sequence_id: int, length: int) -> int:
        return min(-(-length // BLOCK_TOKENS) * BLOCK_TOKENS, self._ledger.length(sequence_id))

    def _first_own_block(self, parked: Parked) -> int:
        return min(self._ledger.shared_length(parked.sequence_id) // BLOCK_TOKENS, _last_block(parked))

    def _shrink(self, parked: Parked, *, seconds: float = math.inf) -> bool:
        """Takes the last block from a parked sequence once it is saved; says whether that moved bytes."""
        index = parked.known.block_count - 1
        saving = self._save(parked, index, seconds=seconds) if index >= 0 else Saving.NOTHING
        if parked.sequence_id not in self._parked:  # its state was lost
            return False
        if saving is Saving.PART:
            return True
        if index <= 0:
            self._drop(parked)
            return saving is Saving.WHOLE
        self.truncate(parked.sequence_id, index * BLOCK_TOKENS)
        self._parked_changed = True
        parked.known = parked.known.truncated(index * BLOCK_TOKENS)
        parked.tried_block_count = min(parked.tried_block_count, index)
        return saving is Saving.WHOLE

    def _save(self, parked: Parked, index: int, *, seconds: float = math.inf) -> Saving:
        """Gives one block, or a part of it, to the store. A sequence that lost its state is dropped."""
        saving = Saving.NOTHING
        if self._mover is not None:
            try:
                saving = self._mover.save(
                    parked.sequence_id, parked.known, index, prefill_rate=self._prefill_rate, seconds=seconds
                )
            except StateLost as error:
                _log.warning("kv_state_lost", error=str(error))
                self._drop(parked)
        if index == parked.tried_block_count and saving is not Saving.PART:
            parked.tried_block_count += 1
        return saving

    def _evict(self, except_id: int | None) -> None:
        """Drops a parked sequence for its id, saving as much of it from the beginning as a step can wait for."""
        victim = self._victim(except_id, is_whole=True)
        if victim is None:
            return
        deadline = self._clock() + (PAUSE_SECONDS if self._is_streaming else _HURRY_SECONDS)
        for index in range(victim.tried_block_count, victim.known.block_count):
            left = deadline - self._clock()
            if left < _SHORTEST_SECONDS or victim.sequence_id not in self._parked:
                break
            self._save(victim, index, seconds=left)
        if victim.sequence_id in self._parked:
            self._drop(victim)

    def _drop(self, parked: Parked) -> None:
        del self._parked[parked.sequence_id]
        self.close(parked.sequence_id)


def _last_block(parked: Parked) -> int:
    return max(0, parked.known.block_count - 1)
