"""Which of the workers that run a model answers a request. Pure: all that matters is in the arguments."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A living worker of the model, and how busy it is."""

    worker_id: str
    load: int
    """Requests there: those this router opened, and those of others."""
    slot_count: int = 0
    """Requests it works on at once; 0 means no limit known."""
    last_chosen: int = 0
    """When it was last chosen, as a count of choices; 0 is never."""
    is_draining: bool = False

    @property
    def has_free_slot(self) -> bool:
        """Whether a request would start at once."""
        return self.slot_count == 0 or self.load < self.slot_count


def others_load(reported: int, own_open: int, own_recent: int) -> int:
    """Estimates how many of the requests a worker reports are not ours.

    A report is up to two seconds old: requests that we ended within that time may still be in it.
    """
    return max(0, reported - own_open - own_recent)


def choose(candidates: Sequence[Candidate], *, knows_conversation: Sequence[str] = ()) -> str | None:
    """Chooses a worker, or none if no candidate takes requests.

    A worker with a free slot that knows the conversation computes least. Otherwise the least loaded one is taken, and
    among equals the one that was not chosen for longest, so that all of them serve.
    """
    open_candidates = [candidate for candidate in candidates if not candidate.is_draining]
    free = {candidate.worker_id for candidate in open_candidates if candidate.has_free_slot}
    for worker_id in knows_conversation:
        if worker_id in free:
            return worker_id
    ranked = sorted(open_candidates, key=lambda c: (c.load, c.last_chosen, c.worker_id))
    return ranked[0].worker_id if ranked else None
