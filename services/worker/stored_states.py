"""The tiers below host memory for models whose memory can't be cut: the store holds states of whole sequences.

The state at the end of tools and system text is written at once. Of a conversation that has come to rest only those
behind its last prompt and its last answer are: each holds all that the ones before it do.
"""

from bisect import bisect_right
from collections.abc import Sequence

from services.worker.blocks import HashedTokens
from services.worker.checkpoints import longest_named, longest_state, places, state_name
from services.worker.stored_tier import Arrival, StoredTier, Visit


class StoredStates(StoredTier):
    """Moves states between host memory and the store, on the event loop; never in the engine's way."""

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

    async def _fetch(self, wanted: HashedTokens) -> int:
        here = longest_state(wanted, self._ram)
        known_count = here.length if here else 0
        if known_count >= len(wanted) - 1:
            return 0
        found = await self._archive.find_states(places(wanted))
        best = longest_named(wanted, ((state.hash, state.token_count) for state in found.next))
        count = 0
        if best:
            self.writer.note_lookup([best.hash], [])
            if best.length > known_count:
                started = self._clock()
                count = await self._read_and_keep(best.hash)
                if count:
                    self._fetch_rate.observe(count, self._clock() - started)
        await self._archive.release(found, used=[best.hash] if best and count else [])
        return count
