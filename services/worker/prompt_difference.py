"""Where a prompt leaves a known one, and how much of what it says there comes again behind the place: pure."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from services.worker.blocks import Tokens, shared_token_count

_WINDOW: Final = 16  # tokens that must agree before two texts are taken to have met again
_REACH: Final = 4096  # how far behind a place they are looked for
_MOST_PLACES: Final = 8


@dataclass(frozen=True)
class Difference:
    """A place that two prompts have in common up to, and not beyond."""

    start: int
    """Tokens before the place, in both."""
    known_end: int
    """Where the known prompt goes on as the other one does; its length if it never does."""
    end: int
    """The same in the other one."""
    repeated_count: int
    """Tokens behind the place that stand in the known prompt too, in the same order."""
    place_count: int
    """Places at which they differ, as far as they were looked for."""


def find_difference(known: Tokens, prompt: Tokens) -> Difference | None:
    """Compares two prompts; None if one of them begins with all of the other."""
    start = shared_token_count(known, prompt)
    if start in (len(known), len(prompt)):
        return None
    at_known = at = start
    ends: tuple[int, int] | None = None
    repeated_count = place_count = 0
    while at < len(prompt) and at_known < len(known) and place_count < _MOST_PLACES:
        place_count += 1
        meeting = _meeting(known[at_known : at_known + _REACH], prompt[at : at + _REACH])
        if meeting is None:
            break
        at_known, at = at_known + meeting[0], at + meeting[1]
        ends = ends or (at_known, at)
        count = shared_token_count(known[at_known:], prompt[at:])
        repeated_count += count
        at_known, at = at_known + count, at + count
    known_end, end = ends or (len(known), len(prompt))
    return Difference(start, known_end, end, repeated_count, place_count)


def _meeting(known: Tokens, prompt: Tokens) -> tuple[int, int] | None:
    """The first place of a prompt from which on a few tokens stand in the known one too, and where they stand there."""
    if min(len(known), len(prompt)) < _WINDOW:
        return None
    places: dict[bytes, int] = {}
    for place, window in enumerate(np.lib.stride_tricks.sliding_window_view(known, _WINDOW)):
        places.setdefault(window.tobytes(), place)
    for place, window in enumerate(np.lib.stride_tricks.sliding_window_view(prompt, _WINDOW)):
        if (found := places.get(window.tobytes())) is not None:
            return found, place
    return None
