"""The sequences in llama.cpp's KV cache: sharing cells, dropping them, copying their state out and in."""

import ctypes
import struct
from typing import Any, Final

import llama_cpp
import numpy as np
from numpy.typing import NDArray

_PIECE_HEADER: Final = struct.Struct("<Q")
_NO_ROOM: Final[NDArray[np.uint8]] = np.empty(0, np.uint8)


class StateLost(Exception):
    """A sequence does not hold the state that it should."""


class KvState:
    """What the pool does with sequences, on the engine thread.

    `sequences` ids are given out; behind them stand a scratch id, through which state is copied, and, with a sliding
    window, one guard id a sequence: llama.cpp gives away cells outside of the window of the only sequence that owns
    them, also with a full-size cache, so there every cell belongs to its sequence and to that one's guard.
    """

    def __init__(self, handle: Any, *, sequences: int, window: int) -> None:
        self._handle = handle
        self._memory = llama_cpp.llama_get_memory(handle)
        self._scratch = sequences
        self._window = window

    @staticmethod
    def needed_ids(sequences: int, *, window: int) -> int:
        """Sequence ids that llama.cpp must know so that this many can be given out."""
        return sequences + 1 + (sequences if window else 0)

    def fork(self, source_id: int, target_id: int, length: int) -> None:
        """Lets a sequence share the first cells of another one, without copying."""
        self._share(source_id, target_id, 0, length)

    def extended(self, sequence_id: int, start: int, end: int) -> None:
        """Takes note of cells that `llama_decode` has added to a sequence."""
        if self._window:
            self._copy(sequence_id, self._guard(sequence_id), start, end)

    def remove(self, sequence_id: int, start: int = 0) -> bool:
        """Drops a sequence from a position on."""
        is_removed = bool(llama_cpp.llama_memory_seq_rm(self._memory, sequence_id, start, -1))
        if self._window:
            llama_cpp.llama_memory_seq_rm(self._memory, self._guard(sequence_id), start, -1)
        return is_removed

    def holds(self, sequence_id: int, length: int) -> bool:
        """Whether the first positions of a sequence are all there."""
        first = int(llama_cpp.llama_memory_seq_pos_min(self._memory, sequence_id))
        last = int(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence_id))
        return first == 0 and last >= length - 1

    def clear(self) -> None:
        """Drops all sequences."""
        llama_cpp.llama_memory_clear(self._memory, True)

    def save(self, sequence_id: int, start: int, end: int, *, room: NDArray[np.uint8] = _NO_ROOM) -> NDArray[np.uint8]:
        """Copies the state of some positions out, to the beginning of `room` if it fits there; or raises `StateLost`.

        With a sliding window in pieces no longer than it: llama.cpp leaves out what the last position can't see.
        """
        span = min(self._window or end - start, end - start)
        pieces: list[NDArray[np.uint8]] = []
        used = 0
        for at in range(start, end, span):
            pieces.append(self._save_piece(sequence_id, at, min(at + span, end), room[used:]))
            used += len(pieces[-1])
        if used <= len(room):
            return room[:used]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def restore(self, sequence_id: int, data: NDArray[np.uint8], start: int, end: int) -> None:
        """Puts saved positions behind those of a sequence; what `data` holds outside of them is left out.

        Raises `StateLost` if llama.cpp refuses the data, for lack of cells too; the sequence is then unchanged.
        """
        at = 0
        try:
            while at < len(data):
                (size,) = _PIECE_HEADER.unpack(data[at : at + _PIECE_HEADER.size].tobytes())
                at += _PIECE_HEADER.size
                self._restore_piece(sequence_id, data[at : at + size], start, end)
                at += size
            if not self.holds(sequence_id, end):
                raise StateLost(f"positions up to {end - 1} are not all there after restoring")
        except StateLost:
            self.remove(sequence_id, start)
            raise

    def save_whole(self, sequence_id: int) -> NDArray[np.uint8]:
        """Copies the state of a sequence out, recurrent state included, or raises `StateLost`."""
        size = llama_cpp.llama_state_seq_get_size(self._handle, sequence_id)
        data = np.empty(size, np.uint8)
        if llama_cpp.llama_state_seq_get_data(self._handle, _bytes_at(data, 0), size, sequence_id) != size:
            raise StateLost("llama.cpp did not give the state")
        return data

    def restore_whole(self, sequence_id: int, data: NDArray[np.uint8]) -> None:
        """Replaces a sequence by a saved one, or raises `StateLost`."""
        if not llama_cpp.llama_state_seq_set_data(self._handle, _bytes_at(data, 0), len(data), sequence_id):
            self.remove(sequence_id)
            raise StateLost("llama.cpp did not take the state")

    def _save_piece(self, sequence_id: int, start: int, end: int, room: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self._copy(sequence_id, self._scratch, start, end)
        try:
            first = llama_cpp.llama_memory_seq_pos_min(self._memory, self._scratch)
            last = llama_cpp.llama_memory_seq_pos_max(self._memory, self._scratch)
            if (first, last) != (start, end - 1):
                raise StateLost(f"positions {start} to {end - 1} are gone, {first} to {last} are left")
            size = llama_cpp.llama_state_seq_get_size(self._handle, self._scratch)
            length = _PIECE_HEADER.size + size
            data = room[:length] if length <= len(room) else np.empty(length, np.uint8)
            data[: _PIECE_HEADER.size] = np.frombuffer(_PIECE_HEADER.pack(size), np.uint8)
            written = llama_cpp.llama_state_seq_get_data(
                self._handle, _bytes_at(data, _PIECE_HEADER.size), size, self._scratch
            )
            if written != size:
                raise StateLost(f"{written} of {size} bytes of state were written")
            return data
        finally:
            self._drop_scratch()

    def _restore_piece(self, sequence_id: int, data: NDArray[np.uint8], start: int, end: int) -> None:
        try:
            if not llama_cpp.llama_state_seq_set_data(self._handle, _bytes_at(data, 0), len(data), self._scratch):
                raise StateLost("llama.cpp did not take the state")
            self._share(self._scratch, sequence_id, start, end)
        finally:
            self._drop_scratch()

    def _share(self, source_id: int, target_id: int, start: int, end: int) -> None:
        self._copy(source_id, target_id, start, end)
        if self._window:
            self._copy(source_id, self._guard(target_id), start, end)

    def _copy(self, source_id: int, target_id: int, start: int, end: int) -> None:
        llama_cpp.llama_memory_seq_cp(self._memory, source_id, target_id, start, end)

    def _drop_scratch(self) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, self._scratch, -1, -1)

    def _guard(self, sequence_id: int) -> int:
        return self._scratch + 1 + sequence_id


def _bytes_at(data: NDArray[np.uint8], offset: int) -> Any:
    return ctypes.cast(data.ctypes.data + offset, ctypes.POINTER(ctypes.c_uint8))
