"""A model and context in pure Python, for tests of the engine: the next token is a function of the tokens before it."""

import threading
import time
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from services.worker.llama import NoFreeCell, Row

VOCABULARY = 128
END = 0


def next_token(tokens: Sequence[int]) -> int:
    """Never the end: `max_tokens` ends these answers."""
    return 1 + (sum(tokens) * 31 + len(tokens)) % (VOCABULARY - 1)


def expected(prompt: Sequence[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class FakeModel:
    vocab_size = VOCABULARY
    end_tokens = frozenset({END})

    @staticmethod
    def piece(token: int) -> bytes:
        return f"{token} ".encode()


class FakeContext:
    """Keeps each sequence's tokens, and refuses what llama.cpp would: gaps in positions, too many cells."""

    def __init__(self, *, cells: int = 10_000, seconds_per_step: float = 0.0, seconds_per_token: float = 0.0) -> None:
        self.sequences: dict[int, list[int]] = {}
        self.steps: list[list[tuple[int, int]]] = []
        self.prefilled_count = self.restored_count = 0
        self.fail_next = False
        self.gate: threading.Event | None = None
        self.next_token = next_token
        self.on_save: Callable[[int], None] = lambda _token_count: None
        self._cells, self._seconds, self._seconds_per_token = cells, seconds_per_step, seconds_per_token
        self._outputs: dict[int, NDArray[np.float32]] = {}

    @property
    def kv(self) -> "FakeContext":
        return self

    def decode(self, rows: Sequence[Row]) -> list[range]:
        if self.gate is not None:
            self.gate.wait(5)
        if self.fail_next:
            self.fail_next = False
            raise RuntimeError("broken")
        if seconds := self._seconds + self._seconds_per_token * sum(len(row.tokens) for row in rows):
            time.sleep(seconds)
        self.steps.append([(row.sequence_id, len(row.tokens)) for row in rows])
        self._outputs = {}
        outputs = []
        for row in rows:
            tokens = self.sequences.setdefault(row.sequence_id, [])
            assert row.position == len(tokens), "positions must follow each other"
            first = len(self._outputs)
            for index, token in enumerate(row.tokens):
                tokens.append(token)
                if index >= len(row.tokens) - row.output_count:
                    self._outputs[len(self._outputs)] = self.logits_after(tokens)
            outputs.append(range(first, len(self._outputs)))
            self.prefilled_count += len(row.tokens)
        if sum(map(len, self.sequences.values())) > self._cells and self.distinct_cells() > self._cells:
            raise NoFreeCell
        return outputs

    def logits_after(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        logits = np.zeros(VOCABULARY, np.float32)
        logits[self.next_token(tokens)] = 1.0
        return logits

    def distinct_cells(self) -> int:
        """Counts cells as if all sequences with a common beginning shared it."""
        beginnings = set()
        for tokens in self.sequences.values():
            beginnings.update(accumulate(tokens, lambda before, token: hash((before, token)), initial=0))
        return max(0, len(beginnings) - 1)

    def synchronise(self) -> None:
        pass

    def logits(self, output: int) -> NDArray[np.float32]:
        return self._outputs[output]

    def fork(self, source_id: int, target_id: int, length: int) -> None:
        assert not self.sequences.get(target_id)
        self.sequences[target_id] = self.sequences[source_id][:length]
        assert len(self.sequences[target_id]) == length

    def extended(self, sequence_id: int, start: int, end: int) -> None:
        assert len(self.sequences[sequence_id]) == end

    def remove(self, sequence_id: int, start: int = 0) -> bool:
        kept = self.sequences.pop(sequence_id, [])[:start]
        if kept:
            self.sequences[sequence_id] = kept
        return True

    def holds(self, sequence_id: int, length: int) -> bool:
        return len(self.sequences.get(sequence_id, ())) >= length

    def save(
        self, sequence_id: int, start: int, end: int, *, room: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        tokens = self.sequences[sequence_id][start:end]
        assert len(tokens) == end - start
        self.on_save(end - start)
        data = np.array([start, len(tokens), *tokens], np.int32).view(np.uint8)
        if room is None or len(room) < len(data):
            return data
        room[: len(data)] = data
        return room[: len(data)]

    def restore(self, sequence_id: int, data: NDArray[np.uint8], start: int, end: int) -> None:
        own = self.sequences.setdefault(sequence_id, [])
        assert len(own) == start
        words = data.view(np.int32).tolist()
        while words:
            saved_start, count, *words = words
            tokens, words = words[:count], words[count:]
            own += tokens[max(0, start - saved_start) : max(0, end - saved_start)]
        assert len(own) == end
        self.restored_count += end - start

    def clear(self) -> None:
        self.sequences.clear()


class FakeSampler:
    """Greedy."""

    is_closed = False

    def sample(self, logits: NDArray[np.float32]) -> int:
        return int(logits.argmax())

    def accept(self, token: int) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True
