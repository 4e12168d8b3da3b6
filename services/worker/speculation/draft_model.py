"""A small model that guesses what a large one will say, with a context of its own."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.worker.compute_lock import ComputeLock
from services.worker.cost import StepCost, total
from services.worker.llama import Row
from services.worker.scheduler import shared_length
from services.worker.watchdog import StepWatch


class DraftMemory(Protocol):
    """The sequences of its KV cache (`KvState`)."""

    def remove(self, sequence_id: int, start: int = 0) -> bool:
        """Drops a sequence from a position on."""
        ...


class DraftContext(Protocol):
    """llama.cpp's side of it (`LlamaContext`)."""

    @property
    def kv(self) -> DraftMemory:
        """Its KV cache."""
        ...

    def decode(self, rows: Sequence[Row]) -> list[range]:
        """Computes all rows in one call and returns the output indices of each."""
        ...

    def synchronise(self) -> None:
        """Waits until the device has finished."""
        ...

    def logits(self, output: int) -> NDArray[np.float32]:
        """Looks at the logits of an output."""
        ...


@dataclass
class _Place:
    """One sequence of the draft model's cache."""

    sequence_id: int
    known: list[int] = field(default_factory=list)
    """Tokens whose state it holds."""
    owner: object | None = None


@dataclass(frozen=True)
class DraftOrder:
    """A draft that is wanted: `count` tokens behind `tokens`."""

    owner: object
    tokens: Sequence[int]
    count: int


class DraftModel:
    """Drafts greedily for several requests at once, each in a sequence that follows the request's tokens.

    A sequence keeps its state when its request ends, for the next one that begins alike.
    """

    def __init__(
        self, context: DraftContext, lock: ComputeLock, *, sequences: int, cells: int, batch_tokens: int,
        vocab_size: int, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.cost = StepCost()
        self._watch = StepWatch(clock=clock)
        self._context, self._lock, self._clock = context, lock, clock
        self._cells, self._batch_tokens, self._vocab_size = cells, batch_tokens, vocab_size
        self._places = [_Place(sequence_id) for sequence_id in range(sequences)]
        self._by_owner: dict[object, _Place] = {}

    @property
    def is_hung(self) -> bool:
        """Whether the step in progress takes far longer than such steps do. For any thread."""
        return self._watch.is_hung

    def warm_up(self) -> None:
        """Measures what a draft costs."""
        for size in (1, 1, 1, min(64, self._batch_tokens)):
            self._decode([(self._places[0], [0] * size)])
        self._cut(self._places[0], 0)

    def lag(self, owner: object, tokens: Sequence[int]) -> int:
        """How many tokens of a request, but for the last one, the model has not read."""
        return len(tokens) - 1 - len(self._place(owner, tokens).known)

    def catch_up(self, owner: object, tokens: Sequence[int], *, seconds: float) -> None:
        """Reads as many of a request's tokens as fit the time; at least one."""
        place = self._place(owner, tokens)
        count = self.cost.tokens_within(
            seconds, beside=total(()), start=len(place.known), at_least=1,
            at_most=min(self._batch_tokens, len(tokens) - 1 - len(place.known)),
        )  # fmt: skip
        if count > 0 and self._make_room(count):
            self._decode([(place, tokens[len(place.known) : len(place.known) + count])])

    def draft(self, orders: Sequence[DraftOrder]) -> list[list[int]]:
        """Makes the drafts, all of them one token longer with each call of the model; without room, none."""
        drafts: list[list[int]] = [[] for _ in orders]
        places = [self._place(order.owner, order.tokens) for order in orders]
        pending = [list(order.tokens[len(place.known) :]) for order, place in zip(orders, places, strict=True)]
        needed = sum(map(len, pending)) + sum(order.count for order in orders)
        if sum(map(len, pending)) > self._batch_tokens or not self._make_room(needed):
            return drafts
        for length in range(max(order.count for order in orders)):
            active = [index for index, order in enumerate(orders) if length < order.count]
            tokens = self._decode([(places[index], pending[index]) for index in active])
            for index, token in zip(active, tokens, strict=True):
                drafts[index].append(token)
                pending[index] = [token]
        return drafts

    def release(self, owner: object) -> None:
        """Lets another request have the sequence of one that ended."""
        place = self._by_owner.pop(owner, None)
        if place is not None:
            place.owner = None

    def _place(self, owner: object, tokens: Sequence[int]) -> _Place:
        """The sequence of a request, cut to what it shares with the tokens; the last token is always left to read."""
        place = self._by_owner.get(owner)
        if place is None:
            free = [place for place in self._places if place.owner is None]
            place = max(free, key=lambda candidate: (shared_length(candidate.known, tokens), -len(candidate.known)))
            place.owner = owner
            self._by_owner[owner] = place
        shared = min(shared_length(place.known, tokens), len(tokens) - 1)
        if shared < len(place.known):
            self._cut(place, shared)
        return place

    def _decode(self, work: Sequence[tuple[_Place, Sequence[int]]]) -> list[int]:
        """Computes tokens of several sequences and returns the likeliest next token of each."""
        rows = [Row(place.sequence_id, len(place.known), tokens, 1) for place, tokens in work]
        shape = total(row.shape for row in rows)
        with self._lock.held():
            started = self._clock()
            with self._watch.step(self.cost.hang_seconds(shape)):
                outputs = self._context.decode(rows)
                self._context.synchronise()
            self.cost.observe(shape, self._clock() - started)
        for place, tokens in work:
            place.known.extend(tokens)
        return [int(self._context.logits(output[-1])[: self._vocab_size].argmax()) for output in outputs]

    def _make_room(self, count: int) -> bool:
        """Forgets sequences of requests that ended until so many cells are free."""
        used = sum(len(place.known) for place in self._places)
        for place in self._places:
            if used + count <= self._cells:
                break
            if place.owner is None:
                used -= len(place.known)
                self._cut(place, 0)
        return used + count <= self._cells

    def _cut(self, place: _Place, length: int) -> None:
        self._context.kv.remove(place.sequence_id, length)
        del place.known[length:]
