"""The tokens that samplers choose from, in memory that is kept from token to token."""

import ctypes
from collections.abc import Iterable
from typing import Any, Final

import llama_cpp
import numpy as np
from numpy.typing import NDArray

_CANDIDATE: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_BLOCK_COUNT: Final = 2048


class Candidates:
    """One `llama_token_data_array`, filled anew for every choice. Used by one thread."""

    def __init__(self, vocab_size: int) -> None:
        self._room = np.zeros(vocab_size, _CANDIDATE)
        every = np.zeros(vocab_size, _CANDIDATE)
        every["id"] = np.arange(vocab_size, dtype=np.int32)
        # numpy copies records field by field, and plain numbers at once
        self._room_words, self._every_words = self._room.view(np.int32), every.view(np.int32)
        self._data: Any = ctypes.cast(self._room.ctypes.data, llama_cpp.llama_token_data_p)
        self.array = llama_cpp.llama_token_data_array(self._data, 0, -1, False)
        self._pointer = ctypes.byref(self.array)

    def take_all(self, logits: NDArray[np.float32]) -> None:
        """Takes the whole vocabulary."""
        np.copyto(self._room_words, self._every_words)
        self._room["logit"] = logits
        self._reset(len(self._room))

    def take_likeliest(self, logits: NDArray[np.float32], count: int, others: Iterable[int] = ()) -> bool:
        """Takes at least the `count` likeliest tokens and the others; false if that is no less work than taking all."""
        rows = len(logits) // _BLOCK_COUNT
        if rows < 4 or count * 4 > _BLOCK_COUNT:
            return False
        # As many blocks as tokens are wanted have a maximum of at least this, so as many tokens reach it.
        highest = logits[: rows * _BLOCK_COUNT].reshape(rows, _BLOCK_COUNT).max(axis=0)
        least = np.partition(highest, _BLOCK_COUNT - count)[_BLOCK_COUNT - count]
        tokens = np.flatnonzero(logits >= least)
        extra = np.fromiter(others, np.int64)
        if len(extra):
            tokens = np.union1d(tokens, extra)
        self._take(tokens, logits)
        return True

    def take_within(self, logits: NDArray[np.float32], distance: float) -> bool:
        """Takes the tokens whose logits are at most so far below the highest; false if that is half of all or more."""
        tokens = np.flatnonzero(logits >= logits.max() - distance)
        if len(tokens) * 2 > len(logits):
            return False
        self._take(tokens, logits)
        return True

    def take_one(self, token: int) -> None:
        """Takes one token, as likely as any."""
        self._room[0] = (token, 1.0, 0.0)
        self._reset(1)

    def apply(self, sampler: Any) -> None:
        """Lets a sampler work on what was taken."""
        llama_cpp.llama_sampler_apply(sampler, self._pointer)

    def drop_impossible(self) -> int:
        """Drops tokens without any chance, and returns how many are left. Before a chain that may move them."""
        taken = self._room[: self.array.size]
        possible = taken[taken["logit"] > -np.inf]
        self._room[: len(possible)] = possible
        self._reset(len(possible))
        return len(possible)

    def tokens(self) -> list[int]:
        """The tokens taken. Before a chain that may move them."""
        return [int(token) for token in self._room["id"][: self.array.size]]

    @property
    def likeliest(self) -> int:
        """The likeliest of the tokens taken. Before a chain that may move them."""
        taken = self._room[: self.array.size]
        return int(taken["id"][taken["logit"].argmax()])

    @property
    def chosen(self) -> int:
        """The token that the chain chose."""
        return int(self.array.data[self.array.selected].id)

    def _take(self, tokens: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        taken = self._room[: len(tokens)]
        taken["id"] = tokens
        taken["logit"] = logits[tokens]
        self._reset(len(tokens))

    def _reset(self, count: int) -> None:
        self.array.data = self._data
        self.array.size = count
        self.array.selected = -1
        self.array.sorted = False
