"""Counts KV cells: llama.cpp shares cells between forked sequences but does not say how many are in use."""

import numpy as np
from numpy.typing import NDArray


class CellLedger:
    """Knows for each sequence which cells of the unified pool hold its tokens.

    Cell numbers are ours, not llama.cpp's: only how many are in use, and by whom, is the same.
    """

    def __init__(self, cell_count: int) -> None:
        self.cell_count = cell_count
        self._references = np.zeros(cell_count, dtype=np.int32)
        self._free = np.arange(cell_count - 1, -1, -1, dtype=np.int32)
        self._free_count = cell_count
        self._cells: dict[int, NDArray[np.int32]] = {}

    @property
    def free_count(self) -> int:
        """Cells that no sequence uses."""
        return self._free_count

    @property
    def used_count(self) -> int:
        """Cells that at least one sequence uses."""
        return self.cell_count - self._free_count

    def length(self, sequence_id: int) -> int:
        """Tokens of a sequence that are in cells."""
        return len(self._cells.get(sequence_id, ()))

    def lengths(self) -> dict[int, int]:
        """Tokens in cells, by sequence."""
        return {key: len(cells) for key, cells in self._cells.items() if len(cells)}

    def extend(self, sequence_id: int, count: int) -> None:
        """Takes free cells for the next tokens of a sequence."""
        if count > self._free_count:
            raise ValueError(f"{count} cells wanted, {self._free_count} free")
        taken = self._free[self._free_count - count : self._free_count].copy()
        self._free_count -= count
        self._references[taken] = 1
        own = self._cells.get(sequence_id)
        self._cells[sequence_id] = taken if own is None else np.concatenate((own, taken))

    def fork(self, source_id: int, target_id: int, length: int) -> None:
        """Lets a new sequence share the first cells of another."""
        if target_id in self._cells:
            raise ValueError(f"sequence {target_id} exists")
        shared = self._cells[source_id][:length]
        if len(shared) != length:
            raise ValueError(f"sequence {source_id} has {len(shared)} tokens, not {length}")
        self._references[shared] += 1
        self._cells[target_id] = shared

    def truncate(self, sequence_id: int, length: int) -> None:
        """Lets go of a sequence's cells behind a length."""
        own = self._cells.get(sequence_id)
        if own is None or len(own) <= length:
            return
        self._let_go(own[length:])
        self._cells[sequence_id] = own[:length]

    def release(self, sequence_id: int) -> None:
        """Forgets a sequence."""
        own = self._cells.pop(sequence_id, None)
        if own is not None:
            self._let_go(own)

    def released_by(self, sequence_id: int) -> int:
        """Says how many cells would become free if a sequence were released."""
        own = self._cells.get(sequence_id)
        return 0 if own is None else int(np.count_nonzero(self._references[own] == 1))

    def exclusive_count(self, sequence_ids: set[int]) -> int:
        """Counts cells that only these sequences use."""
        mine = [cells for key, cells in self._cells.items() if key in sequence_ids]
        others = [cells for key, cells in self._cells.items() if key not in sequence_ids]
        mark = np.zeros(self.cell_count, dtype=bool)
        for cells in mine:
            mark[cells] = True
        for cells in others:
            mark[cells] = False
        return int(np.count_nonzero(mark))

    def clear(self) -> None:
        """Forgets all sequences."""
        self.__init__(self.cell_count)  # type: ignore[misc]

    def _let_go(self, cells: NDArray[np.int32]) -> None:
        self._references[cells] -= 1
        freed = cells[self._references[cells] == 0]
        self._free[self._free_count : self._free_count + len(freed)] = freed
        self._free_count += len(freed)
