"""Counts KV cells: llama.cpp shares cells between forked sequences but does not say how many are in use."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_SPARE_CELLS: Final = 256


class _Cells:
    """The cells of one sequence, with room to grow: a token more must not copy those of a long conversation."""

    def __init__(self, cells: NDArray[np.int32]) -> None:
        self._room = cells
        self.count = len(cells)

    @property
    def all(self) -> NDArray[np.int32]:
        return self._room[: self.count]

    def append(self, cells: NDArray[np.int32]) -> None:
        end = self.count + len(cells)
        self._grow(end)
        self._room[self.count : end] = cells
        self.count = end

    def append_one(self, cell: np.int32) -> None:
        self._grow(self.count + 1)
        self._room[self.count] = cell
        self.count += 1

    def _grow(self, end: int) -> None:
        if end > len(self._room):
            room = np.empty(end + max(_SPARE_CELLS, end // 8), np.int32)
            room[: self.count] = self.all
            self._room = room


class CellLedger:
    """Knows for each sequence which cells of the unified pool hold its tokens.

    Cell numbers are ours, not llama.cpp's: only how many are in use, and by whom, is the same.
    """

    def __init__(self, cell_count: int) -> None:
        self.cell_count = cell_count
        self._references = np.zeros(cell_count, dtype=np.int32)
        self._free = np.arange(cell_count - 1, -1, -1, dtype=np.int32)
        self._free_count = cell_count
        self._cells: dict[int, _Cells] = {}

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
        own = self._cells.get(sequence_id)
        return 0 if own is None else own.count

    def lengths(self) -> dict[int, int]:
        """Tokens in cells, by sequence."""
        return {key: cells.count for key, cells in self._cells.items() if cells.count}

    def extend(self, sequence_id: int, count: int) -> None:
        """Takes free cells for the next tokens of a sequence."""
        if count > self._free_count:
            raise ValueError(f"{count} cells wanted, {self._free_count} free")
        own = self._cells.get(sequence_id)
        self._free_count -= count
        if count == 1 and own is not None:  # every stream in every step
            cell = self._free[self._free_count]
            self._references[cell] = 1
            own.append_one(cell)
            return
        taken = self._free[self._free_count : self._free_count + count]
        self._references[taken] = 1
        if own is None:
            self._cells[sequence_id] = _Cells(taken.copy())
        else:
            own.append(taken)

    def fork(self, source_id: int, target_id: int, length: int) -> None:
        """Lets a new sequence share the first cells of another."""
        if target_id in self._cells:
            raise ValueError(f"sequence {target_id} exists")
        shared = self._cells[source_id].all[:length]
        if len(shared) != length:
            raise ValueError(f"sequence {source_id} has {len(shared)} tokens, not {length}")
        self._references[shared] += 1
        self._cells[target_id] = _Cells(shared.copy())

    def truncate(self, sequence_id: int, length: int) -> None:
        """Lets go of a sequence's cells behind a length."""
        own = self._cells.get(sequence_id)
        if own is None or own.count <= length:
            return
        self._let_go(own.all[length:])
        own.count = length

    def release(self, sequence_id: int) -> None:
        """Forgets a sequence."""
        own = self._cells.pop(sequence_id, None)
        if own is not None:
            self._let_go(own.all)

    def released_by(self, sequence_id: int) -> int:
        """Says how many cells would become free if a sequence were released."""
        own = self._cells.get(sequence_id)
        return 0 if own is None else int(np.count_nonzero(self._references[own.all] == 1))

    def shared_length(self, sequence_id: int) -> int:
        """Says how many tokens at a sequence's beginning other sequences hold too."""
        own = self._cells.get(sequence_id)
        if own is None:
            return 0
        is_own = self._references[own.all] == 1
        return int(is_own.argmax()) if is_own.any() else own.count

    def exclusive_count(self, sequence_ids: set[int]) -> int:
        """Counts cells that only these sequences use."""
        mine = [cells.all for key, cells in self._cells.items() if key in sequence_ids]
        others = [cells.all for key, cells in self._cells.items() if key not in sequence_ids]
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
