"""Remembers the tokens of recent prompts, within a bound, so that a new one can be compared with the nearest."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from itertools import count
from typing import Final

from services.worker.blocks import Tokens, shared_token_count
from services.worker.radix import RadixTree

_MOST_BYTES: Final = 32_000_000
_BYTES_PER_TOKEN: Final = 8  # in the prompt itself and in the tree


@dataclass(frozen=True)
class Nearest:
    """The known prompt that begins most like a new one; no tokens if none does."""

    tokens: Tokens
    shared_count: int


@dataclass
class _Known:
    tenant: str
    tokens: Tokens


class PromptMemory:
    """Prompts by tenant: nobody's prompt is ever compared with another tenant's. Thread-safe.

    The prompt that was met longest ago is forgotten first.
    """

    def __init__(self, *, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._trees: dict[str, RadixTree] = {}
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._used_bytes = 0
        self._numbers = count()
        self._guard = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def used_bytes(self) -> int:
        """Bytes that all prompts take, about."""
        return self._used_bytes

    def nearest(self, tenant: str, tokens: Tokens) -> Nearest:
        """Finds the prompt of a tenant that shares the longest beginning with a new one."""
        with self._guard:
            tree = self._trees.get(tenant)
            found = tree.longest_match(tokens) if tree else None
            if found is None:
                return Nearest(tokens[:0], 0)
            number, _ = found
            self._known.move_to_end(number)
            known = self._known[number].tokens
        return Nearest(known, shared_token_count(known, tokens))

    def add(self, tenant: str, tokens: Tokens) -> int:
        """Takes in a prompt that is being computed; returns its number."""
        with self._guard:
            number = next(self._numbers)
            self._put(number, tenant, tokens)
            return number

    def settle(self, number: int, tokens: Tokens) -> None:
        """Says what of a prompt and its answer was computed in the end; known beginnings of it are superfluous."""
        with self._guard:
            known = self._forget(number)
            if known is None or not len(tokens):
                return
            if tree := self._trees.get(known.tenant):
                for beginning in tree.beginnings(tokens):
                    self._forget(beginning)
            self._put(number, known.tenant, tokens)

    def _put(self, number: int, tenant: str, tokens: Tokens) -> None:
        size = len(tokens) * _BYTES_PER_TOKEN
        while self._known and self._used_bytes + size > self._most_bytes:
            self._forget(next(iter(self._known)))
        if not len(tokens) or size > self._most_bytes:
            return
        self._known[number] = _Known(tenant, tokens)
        self._trees.setdefault(tenant, RadixTree()).append(number, tokens)
        self._used_bytes += size

    def _forget(self, number: int) -> _Known | None:
        known = self._known.pop(number, None)
        if known is not None:
            self._used_bytes -= len(known.tokens) * _BYTES_PER_TOKEN
            self._trees[known.tenant].remove(number)
            if not len(self._trees[known.tenant]):
                del self._trees[known.tenant]
        return known
