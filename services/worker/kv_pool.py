"""The KV cache as the engine sees it: sequences that run, sequences that are parked, and the cells they share."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from services.worker.cells import CellLedger
from services.worker.parking import Match, Parked, least_valuable, longest_match, made_redundant


class KvMemory(Protocol):
    """llama.cpp's side of the cache (`LlamaContext`)."""

    def fork(self, source_id: int, target_id: int, length: int) -> None:
        """Lets a sequence share the first cells of another one."""
        ...

    def remove(self, sequence_id: int, start: int = 0) -> bool:
        """Drops a sequence from a position on."""
        ...

    def clear(self) -> None:
        """Drops all sequences."""
        ...


class KvPool:
    """Hands out sequence ids and cells, and keeps finished conversations while there is room."""

    def __init__(
        self, memory: KvMemory, *, cells: int, sequences: int, parked_sequences: int, parked_cells: int, forks: bool
    ) -> None:
        self._memory = memory
        self._ledger = CellLedger(cells)
        self._free_ids = list(range(sequences - 1, -1, -1))
        self._parked: dict[int, Parked] = {}
        self._max_parked = parked_sequences if forks else 0
        self._max_parked_cells = parked_cells
        self.forks = forks

    @property
    def used_cells(self) -> int:
        """Cells in use."""
        return self._ledger.used_count

    @property
    def cell_count(self) -> int:
        """Cells in all."""
        return self._ledger.cell_count

    @property
    def available_cells(self) -> int:
        """Cells that are free, or would be if all parked sequences were dropped."""
        return self._ledger.free_count + self._ledger.exclusive_count(set(self._parked))

    @property
    def parked_count(self) -> int:
        """Parked sequences."""
        return len(self._parked)

    def best_match(self, tokens: Sequence[int], running: Iterable[tuple[int, Sequence[int]]]) -> Match | None:
        """Finds the sequence, parked or running, that a prompt can share most with."""
        if not self.forks:
            return None
        parked = ((item.sequence_id, item.tokens) for item in self._parked.values())
        return longest_match(tokens, [*parked, *running])

    def open(self, match: Match | None, *, now: float) -> int:
        """Starts a sequence, sharing the matched beginning of another, and returns its id."""
        if match and (source := self._parked.get(match.sequence_id)):
            self._parked[match.sequence_id] = Parked(source.sequence_id, source.tokens, now)
        if not self._free_ids:
            keep = match.sequence_id if match else None
            self._drop_least_valuable(except_id=keep)
        sequence_id = self._free_ids.pop()
        if match:
            self._memory.fork(match.sequence_id, sequence_id, match.length)
            self._ledger.fork(match.sequence_id, sequence_id, match.length)
        return sequence_id

    def extend(self, sequence_id: int, count: int) -> None:
        """Takes cells for the next tokens of a sequence; `make_room` must have found them."""
        self._ledger.extend(sequence_id, count)

    def truncate(self, sequence_id: int, length: int) -> None:
        """Drops a running sequence's tokens behind a length."""
        self._memory.remove(sequence_id, length)
        self._ledger.truncate(sequence_id, length)

    def make_room(self, count: int) -> bool:
        """Drops parked sequences, least valuable first, until so many cells are free."""
        while self._ledger.free_count < count:
            if not self._drop_least_valuable():
                return False
        return True

    def park(self, sequence_id: int, tokens: Sequence[int], *, now: float) -> None:
        """Keeps the state of a sequence that ended; within the limits of what may be parked."""
        if not self._max_parked or not tokens:
            self.close(sequence_id)
            return
        new = Parked(sequence_id, tokens, now)
        for old in made_redundant(new, self._parked.values()):
            self._drop(old)
        self._parked[sequence_id] = new
        while len(self._parked) > self._max_parked or self._parked_cells() > self._max_parked_cells:
            self._drop_least_valuable()

    def close(self, sequence_id: int) -> None:
        """Forgets a running sequence."""
        self._memory.remove(sequence_id)
        self._ledger.release(sequence_id)
        self._free_ids.append(sequence_id)

    def drop_parked(self) -> None:
        """Forgets all parked sequences."""
        while self._drop_least_valuable():
            pass

    def _parked_cells(self) -> int:
        return self._ledger.exclusive_count(set(self._parked))

    def _drop_least_valuable(self, except_id: int | None = None) -> bool:
        victim = least_valuable(item for item in self._parked.values() if item.sequence_id != except_id)
        if victim is None:
            return False
        self._drop(victim)
        return True

    def _drop(self, item: Parked) -> None:
        del self._parked[item.sequence_id]
        self.close(item.sequence_id)
