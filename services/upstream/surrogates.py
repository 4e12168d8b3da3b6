"""Makes whole characters of text that a remote cut into UTF-16 halves."""

from typing import Final

_FIRST_HIGH, _LAST_HIGH = "\ud800", "\udbff"
_REPLACEMENT: Final = "\ufffd"


class CharacterJoiner:
    """Holds back the first half of a character until the second arrives."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """Returns the whole characters so far; a half without its partner is replaced."""
        text = self._held + text
        self._held = ""
        if text and _FIRST_HIGH <= text[-1] <= _LAST_HIGH:
            text, self._held = text[:-1], text[-1]
        return whole(text)

    def close(self) -> str:
        """Returns what is left to say about a half that stayed alone."""
        held, self._held = self._held, ""
        return _REPLACEMENT if held else ""


def whole(text: str) -> str:
    """Joins neighbouring halves and replaces lone ones."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
