"""The guessing of one request: what it may do, what it would guess, how well that went."""

from typing import Final, Literal

from services.worker.speculation.acceptance import DraftAcceptance, MatchAcceptance
from services.worker.speculation.lookup import Lookup
from services.worker.speculation.options import SpeculationOptions

Source = Literal["lookup", "draft"]
SOURCES: Final[tuple[Source, ...]] = ("lookup", "draft")


class Speculation:
    """Follows the tokens of one request. Only the engine thread uses it."""

    def __init__(self, options: SpeculationOptions, tokens: list[int]) -> None:
        self.options = options
        self.source: Source = "lookup"
        """Who made the latest draft."""
        self.draft_acceptance = DraftAcceptance()
        self.drafted_count = self.accepted_count = 0
        self.latest_drafted = self.latest_accepted = 0
        self._tokens = tokens
        self._match_acceptance = MatchAcceptance()
        self._lookup: Lookup | None = None

    def lookup(self) -> Lookup:
        """The index of the tokens, brought up to date; made when first asked for."""
        if self._lookup is None:
            self._lookup = Lookup(self._tokens, self._match_acceptance)
        else:
            self._lookup.advance()
        return self._lookup

    def lookup_chances(self, room: int) -> list[float]:
        """The chances of the tokens that lookup would guess now, at most `room`."""
        if not self.options.allows_lookup:
            return []
        lookup = self.lookup()
        return self._match_acceptance.chances(lookup.trust, room) if lookup.match_length else []

    @property
    def rejected_count(self) -> int:
        """Guesses that turned out to be wrong, or stood behind a wrong one."""
        return self.drafted_count - self.accepted_count

    def begin_draft(self, count: int) -> None:
        """Call before a draft is verified; none is a draft of 0."""
        self.latest_drafted, self.latest_accepted = count, 0
        self.drafted_count += count

    def confirm(self) -> None:
        """Call for each guess that turns out to be right."""
        self.latest_accepted += 1
        self.accepted_count += 1

    def end_draft(self) -> None:
        """Learns from the draft. (Lookup learns from every token, guessed or not, when it takes it in.)"""
        if self.source == "draft":
            self.draft_acceptance.observe(self.latest_drafted, self.latest_accepted)

    def forget(self) -> None:
        """Call after tokens were taken back."""
        self._lookup = None
