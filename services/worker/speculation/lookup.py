"""Prompt lookup: a text that repeats its newest tokens is likely to go on as it did before."""

from typing import Final

from services.worker.speculation.acceptance import MatchAcceptance

SHORTEST_MATCH: Final = 3
_LONGEST_COMPARED: Final = 32
_MOST_CANDIDATES: Final = 12
_CHANGED_AT_MOST: Final = 24


class Lookup:
    """Follows a sequence that grows at its end, and the place in it that the end repeats.

    Each token costs one entry of a dictionary, however long the sequence is: while the repeated place keeps predicting
    the next token it is followed, and only after a wrong guess the latest places with the same three tokens are
    compared.
    """

    def __init__(self, tokens: list[int], acceptance: MatchAcceptance) -> None:
        self._tokens, self._acceptance = tokens, acceptance
        self._latest: dict[tuple[int, int, int], int] = {}
        """Where the latest occurrence of three tokens ends."""
        self._earlier = [0] * SHORTEST_MATCH
        """For each end, where the occurrence of its three tokens before that ends; 0: nowhere."""
        self._source = 0
        self._match_length = 0
        self._trust = 0
        self._left_at = self._left_trust = 0
        """The place that was followed before the last wrong guess, and how far it was to be trusted."""
        self._index()
        self._search()

    @property
    def match_length(self) -> int:
        """Tokens at the end that also stand before the guess; 0 if there is nothing to guess from."""
        return self._match_length

    @property
    def trust(self) -> int:
        """How long a match the guess is worth: an edited copy is picked up again behind each change."""
        return self._match_length + self._trust

    def advance(self) -> None:
        """Takes in the tokens that were appended, and learns how well they were guessed."""
        for position in range(len(self._earlier) - 1, len(self._tokens)):
            if self._match_length:
                was_right = self._tokens[self._source] == self._tokens[position]
                self._acceptance.observe(self.trust, was_right=was_right)
                if was_right:
                    self._source += 1
                    self._match_length += 1
                else:
                    self._left_at, self._left_trust = self._source, self.trust
                    self._match_length = 0
            self._index_end(position + 1)
            if not self._match_length:
                self._search(position + 1)

    def guess(self, count: int) -> list[int]:
        """The next tokens, if the text goes on as it did at the repeated place; past its end it repeats itself."""
        if not self._match_length:
            return []
        guess = self._tokens[self._source : self._source + count]
        while len(guess) < count:  # a text of period n goes on with the n tokens it ends with
            guess += guess[: count - len(guess)]
        return guess

    def _index(self) -> None:
        tokens, latest, earlier = self._tokens, self._latest, self._earlier
        for end, key in enumerate(zip(tokens, tokens[1:], tokens[2:], strict=False), SHORTEST_MATCH):
            earlier.append(latest.get(key, 0))
            latest[key] = end

    def _index_end(self, end: int) -> None:
        tokens = self._tokens
        key = (tokens[end - 3], tokens[end - 2], tokens[end - 1])
        self._earlier.append(self._latest.get(key, 0))
        self._latest[key] = end

    def _search(self, end: int | None = None) -> None:
        end = len(self._tokens) if end is None else end
        self._match_length = self._trust = 0
        candidate = self._earlier[end] if SHORTEST_MATCH <= end < len(self._earlier) else 0
        for _ in range(_MOST_CANDIDATES):
            if not candidate:
                return
            length = self._common_length(candidate, end)
            trust = self._left_trust if 0 <= candidate - self._left_at <= _CHANGED_AT_MOST else 0
            if length + trust > self.trust:
                self._source, self._match_length, self._trust = candidate, length, trust
            if length == _LONGEST_COMPARED:
                return
            candidate = self._earlier[candidate]

    def _common_length(self, left_end: int, right_end: int) -> int:
        tokens, length = self._tokens, SHORTEST_MATCH
        most = min(_LONGEST_COMPARED, left_end)
        while length < most and tokens[left_end - length - 1] == tokens[right_end - length - 1]:
            length += 1
        return length
