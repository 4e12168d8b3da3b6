"""Lets a model read once more, alone, what it said in company: did it choose what it finds likeliest?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.worker.llama import LlamaContext, LlamaModel, Row
from services.worker.scheduler import shared_length

_PROMPT_TOKENS: Final = 256
_MOST_ROWS: Final = 64


class Teacher:
    """Reads one sequence after another; what one shares with the one before is not read again."""

    def __init__(self, context: LlamaContext) -> None:
        self._context = context
        self._known: list[int] = []

    def logits(self, tokens: Sequence[int], prompt_count: int, *, rows: int = _MOST_ROWS) -> NDArray[np.float32]:
        """The logits at each place where a token was chosen, `rows` places a step. Shape: (chosen, vocabulary)."""
        last = prompt_count - 1
        place = min(shared_length(self._known, tokens), last)
        self._context.kv.remove(0, place)
        found: list[NDArray[np.float32]] = []
        while place < len(tokens) - 1:
            is_prompt = place < last
            end = min(place + _PROMPT_TOKENS, last) if is_prompt else min(place + rows, len(tokens) - 1)
            (outputs,) = self._context.decode([Row(0, place, tokens[place:end], 0 if is_prompt else end - place)])
            self._context.kv.extended(0, place, end)
            found += [self._context.logits(output).copy() for output in outputs]
            place = end
        self._known = list(tokens[:place])
        return np.stack(found)

    def shortfall(self, tokens: Sequence[int], prompt_count: int, *, rows: int = _MOST_ROWS) -> float:
        """How far below the highest logit a chosen token lies at most."""
        return shortfall(self.logits(tokens, prompt_count, rows=rows), tokens[prompt_count:])


def shortfall(logits: NDArray[np.float32], chosen: Sequence[int]) -> float:
    """How far below the highest logit of its place a chosen token lies at most."""
    return float((logits.max(axis=1) - logits[np.arange(len(logits)), chosen]).max())


@contextmanager
def teaching(model: LlamaModel, *, cells: int) -> Iterator[Teacher]:
    """A teacher with a fresh context."""
    context = LlamaContext(
        model, cells=cells, sequences=1, batch_tokens=_PROMPT_TOKENS, threads=2, type_k="f16", type_v="f16",
        draft_tokens=_MOST_ROWS,
    )  # fmt: skip
    yield Teacher(context)
    context.close()
