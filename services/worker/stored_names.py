"""Which blocks a worker takes the store to hold, so that it does not write them again."""

from dataclasses import dataclass
from typing import Final

_MOST_REMEMBERED: Final = 65_536


@dataclass(frozen=True, slots=True)
class _Place:
    """What a block lies behind; empty where that is not known."""

    after: bytes = b""
    """The block that it is of no use without."""
    base: bytes = b""
    """The same, where that holds a piece of its state."""


class StoredNames:
    """Blocks by hash; those not named for longest are forgotten."""

    def __init__(self, most: int = _MOST_REMEMBERED) -> None:
        self._most = most
        self._places: dict[bytes, _Place] = {}
        self._followers: dict[bytes, set[bytes]] = {}

    def __contains__(self, name: bytes) -> bool:
        return name in self._places

    def add(self, name: bytes, *, parent: bytes = b"", base: bytes = b"") -> None:
        """Takes note of a block that is stored; where it lies may be known from before."""
        place = self._drop(name) or _Place()
        if parent:
            place = _Place(base or parent, base)
        self._places[name] = place
        if place.after:
            self._followers.setdefault(place.after, set()).add(name)
        while len(self._places) > self._most:
            self._drop(next(iter(self._places)))

    def forget(self, name: bytes) -> None:
        """Takes note of a block that the store has given up, as it has all that follows it.

        Perhaps also the piece that it needs, which is given up after it.
        """
        place = self._places.get(name)
        doubtful = [name, place.base] if place else [name]
        while doubtful:
            gone = doubtful.pop()
            self._drop(gone)
            doubtful += self._followers.pop(gone, ())

    def _drop(self, name: bytes) -> _Place | None:
        place = self._places.pop(name, None)
        if place and (followers := self._followers.get(place.after)):
            followers.discard(name)
            if not followers:
                del self._followers[place.after]
        return place
