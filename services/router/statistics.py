"""What the router has measured of a model's requests; pure but for the numbers it keeps."""

from dataclasses import dataclass
from typing import Final

_WEIGHT: Final = 0.2  # of the latest measurement
_LEAST_SIZE: Final = 200


@dataclass
class ModelStatistics:
    """Running means of one model."""

    characters_per_token: float = 3.6
    request_seconds: float = 10.0
    """How long a request holds its slot."""
    completion_tokens: float = 200.0

    def token_count(self, characters: int) -> int:
        """Estimates the tokens of a text."""
        return round(characters / self.characters_per_token)

    def observe_prompt(self, characters: int, token_count: int) -> None:
        """Takes the true size of a prompt; very short ones say little."""
        if token_count > 0 and characters >= _LEAST_SIZE:
            self.characters_per_token = _mixed(self.characters_per_token, characters / token_count)

    def observe_request(self, seconds: float, completion_token_count: int) -> None:
        """Takes how long a finished request held its slot, and how much it said."""
        self.request_seconds = _mixed(self.request_seconds, seconds)
        self.completion_tokens = _mixed(self.completion_tokens, completion_token_count)


def _mixed(old: float, new: float) -> float:
    return old + _WEIGHT * (new - old)
