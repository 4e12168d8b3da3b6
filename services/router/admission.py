"""Who may wait, and who goes next. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from localcode.inference.v1 import inference_pb2 as pb

AGEING_SECONDS: Final = 20.0
"""A request that has waited so long goes as one of the next higher level."""
_LEVELS: Final = {pb.REQUEST_CLASS_SUBAGENT: 1, pb.REQUEST_CLASS_COMPACTION: 2, pb.REQUEST_CLASS_TITLE: 3}
_LEAST_RETRY_SECONDS: Final = 1.0
_MOST_RETRY_SECONDS: Final = 30.0  # clients give up after five retries, and wait as long as they are told to


class Waiting(Protocol):
    """What is known of a waiting request."""

    @property
    def request_class(self) -> "pb.RequestClass.ValueType":
        """The kind of request."""
        ...

    @property
    def key_id(self) -> str:
        """Whose it is."""
        ...

    @property
    def arrived_at(self) -> float:
        """When it came, in seconds of the clock that `now` is read from."""
        ...

    @property
    def has_begun(self) -> bool:
        """Whether its answer has begun elsewhere: its reader sees a pause."""
        ...


W = TypeVar("W", bound=Waiting)


def is_background(request_class: "pb.RequestClass.ValueType") -> bool:
    """Whether nobody sits and waits for the answer."""
    return request_class in (pb.REQUEST_CLASS_TITLE, pb.REQUEST_CLASS_COMPACTION)


def level(waiting: Waiting, now: float) -> int:
    """The level at which a request waits, 0 goes first; it rises with age, so that nothing starves."""
    if waiting.has_begun:
        return -1
    return max(_LEVELS.get(waiting.request_class, 0) - int((now - waiting.arrived_at) / AGEING_SECONDS), 0)


def in_line(waiting: Iterable[W], used: Mapping[str, float], now: float) -> list[W]:
    """Sorts requests by who goes next: by level, then the key that had fewest tokens lately, then by arrival."""
    return sorted(waiting, key=lambda one: (level(one, now), used.get(one.key_id, 0.0), one.arrived_at))


def refused(waiting: Sequence[W], newcomer: W, *, limit: int, now: float) -> W | None:
    """Names the request that a full queue turns away: the newcomer, or the last of a key that holds more places."""
    if newcomer.has_begun or len(waiting) < limit:
        return None
    places = Counter(one.key_id for one in waiting if not one.has_begun)
    key_id, count = max(places.items(), key=lambda item: item[1], default=("", 0))
    if count <= places[newcomer.key_id] + 1:
        return newcomer
    of_key = [one for one in waiting if one.key_id == key_id and not one.has_begun]
    return max(of_key, key=lambda one: (level(one, now), one.arrived_at))


def retry_after_seconds(waiting_count: int, *, slot_count: int, request_seconds: float) -> float:
    """Says when a place in the queue is likely to be free: when half of those who wait now have gone."""
    seconds = waiting_count / 2 * request_seconds / max(slot_count, 1)
    return min(max(seconds, _LEAST_RETRY_SECONDS), _MOST_RETRY_SECONDS)
