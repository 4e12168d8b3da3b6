"""How many tokens each API key has had lately. Pure but for the numbers it keeps."""

from typing import Final

HALF_LIFE_SECONDS: Final = 60.0
_FORGET_BELOW: Final = 1.0
_SWEEP_SIZE: Final = 1024


class Shares:
    """Tokens by key; they count half after a minute, so that nobody pays for yesterday."""

    def __init__(self) -> None:
        self._used: dict[str, tuple[float, float]] = {}

    def used(self, key_id: str, now: float) -> float:
        """Returns the tokens that still count against a key."""
        tokens, at = self._used.get(key_id, (0.0, now))
        return float(tokens * 0.5 ** ((now - at) / HALF_LIFE_SECONDS))

    def charge(self, key_id: str, tokens: float, now: float) -> None:
        """Counts tokens against a key; negative ones give back what was charged too much."""
        self._used[key_id] = max(self.used(key_id, now) + tokens, 0.0), now
        if len(self._used) > _SWEEP_SIZE:
            self._used = {key: (self.used(key, now), now) for key in self._used if self.used(key, now) > _FORGET_BELOW}
