"""The tiers below host memory for models whose memory can't be cut: the store holds states of whole sequences.

The state at the end of tools and system text is written at once. Of a conversation that has come to rest only those
behind its last question, its last prompt and its last answer are: each holds all that the ones before it do, but a
template may leave out what was said between question and answer, or write an answer's text in other tokens.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

from services.shared.block_client import StoredChain
from services.worker.blocks import HashedTokens
from services.worker.checkpoints import Checkpoint, longest_named, longest_state, places, state_name
from services.worker.measured_rate import MeasuredRate
from services.worker.stored_tier import Arrival, StoredTier, Visit


class StoredStates(StoredTier):
    """Moves states between host memory and the store, on the event loop; never in the engine's way."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._byte_rate = MeasuredRate()
        """Of reading: the state of a recurrent model is as large behind ten tokens as behind ten thousand."""
        self._visits: WeakSet[Visit] = WeakSet()
        self.writer.is_awaited = self._is_awaited

    async def begin(self, *arguments: Any, **options: Any) -> Visit:
        """Takes note of a prompt that arrives, and fetches; until it has ended its states are not written."""
        visit = await super().begin(*arguments, **options)
        self._visits.add(visit)
        return visit

    async def fetch(self, wanted: HashedTokens, names: Sequence[bytes] = (), *, prefill_rate: float) -> int:
        """Brings the longest stored state that begins a prompt into host memory, if reading it takes less time than
        computing what it holds beyond the states there; returns how many tokens it stands for.
        """
        here = longest_state(wanted, self._ram)
        known_count = here.length if here else 0
        if known_count >= len(wanted) - 1:
            return 0
        self._fetching_count += 1
        try:
            return await self._fetch_beyond(known_count, wanted, names, prefill_rate=prefill_rate)
        finally:
            self._fetching_count -= 1

    async def _fetch_beyond(
        self, known_count: int, wanted: HashedTokens, names: Sequence[bytes], *, prefill_rate: float
    ) -> int:
        found = await self._archive.find_states(places(wanted), names)
        self._note_found(names, found)
        best = longest_named(wanted, ((state.hash, state.token_count) for state in found.next))
        count, is_used = 0, False
        if best:
            size_bytes = next(state.size_bytes for state in found.next if state.hash == best.hash)
            gained_seconds = (best.length - known_count) / prefill_rate if prefill_rate > 0 else math.inf
            if best.length > known_count and self._byte_rate.seconds(size_bytes) <= gained_seconds:
                count = await self._read_timed(best, size_bytes)
            elif best.length > known_count:
                self._byte_rate.recover()
            is_used = best.length == known_count or count > 0
        await self._archive.release(found, used=[best.hash] if best and is_used else [])
        return count

    async def _read_timed(self, state: Checkpoint, size_bytes: int) -> int:
        started = self._clock()
        count = await self._read_and_keep(state.hash)
        if count:
            self._byte_rate.observe(size_bytes, self._clock() - started)
        return count

    def _note_found(self, names: Sequence[bytes], found: StoredChain) -> None:
        """Has what the store has given up written again, as far as host memory still has it."""
        if self._archive.is_away:
            return
        there = {state.hash for state in found.next}
        lost = [name for name in names if name not in there and self.writer.has_stored(name)]
        self.writer.note_lookup([name for name in names if name in there], lost)
        for name in lost:
            if block := self._ram.peek(name):
                self.writer.take(block)

    def _is_awaited(self, name: bytes) -> bool:
        return any(visit.is_open and name in visit.hashes for visit in self._visits)

    def _note_arrival(self, arrival: Arrival) -> tuple[tuple[bytes, ...], int]:
        """The names of the states that are kept of a prompt; nothing of one is any other prompt's too."""
        names = tuple(state_name(arrival.wanted, length) for length in arrival.checkpoints)
        system_count = bisect_right(arrival.checkpoints, arrival.system_token_count)
        self._history.note_prompt(names, request_class=arrival.request_class, system_block_count=system_count)
        return names, 0

    def _names_of(self, visit: Visit, tokens: Sequence[int]) -> tuple[tuple[bytes, ...], bytes]:
        """The names of the states of a prompt, and of the one behind its answer."""
        known = HashedTokens(tokens, self._fingerprint)
        return visit.hashes, state_name(known, len(known)) if len(known) else self._fingerprint

    def _expect(self, names: Sequence[bytes]) -> None:
        """Nothing: the one state that the next prompt goes on from was saved last, and is in host memory."""
