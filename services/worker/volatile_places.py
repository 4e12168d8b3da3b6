"""Finds lines near the beginning of prompts that are another each time, such as a date or a directory: pure."""

from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

_MOST_PLACES: Final = 256
_VALUES: Final = 3
"""Different texts at one place from which on it counts as volatile."""


@dataclass
class _Place:
    values: set[bytes] = field(default_factory=set)
    is_reported: bool = False


@dataclass(frozen=True)
class Sighting:
    """What is known of a place after a prompt that differs there."""

    is_volatile: bool
    is_new: bool
    """Whether it turned out just now."""


class VolatilePlaces:
    """Counts the texts that prompts of one lineage have at the same place; keeps hashes only."""

    def __init__(self) -> None:
        self._places: OrderedDict[bytes, _Place] = OrderedDict()

    def note(self, tenant: str, beginning: str, lines: tuple[str, str]) -> Sighting:
        """Notes a line that differs between two prompts which are the same before it."""
        name = _hash(tenant, beginning)
        place = self._places.setdefault(name, _Place())
        self._places.move_to_end(name)
        if len(self._places) > _MOST_PLACES:
            self._places.popitem(last=False)
        if len(place.values) < _VALUES:
            place.values.update(_hash(tenant, line) for line in lines)
        is_volatile = len(place.values) >= _VALUES
        is_new = is_volatile and not place.is_reported
        place.is_reported |= is_volatile
        return Sighting(is_volatile, is_new)


def _hash(tenant: str, text: str) -> bytes:
    return sha256(f"{tenant}\n{text}".encode(errors="replace")).digest()
