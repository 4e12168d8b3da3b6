"""Bytes of tokens to text: a token may end in the middle of a character."""

import codecs


class Detokenizer:
    """Turns the bytes of successive tokens into whole characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, piece: bytes) -> str:
        """Returns the characters completed by a token's bytes; invalid bytes are replaced."""
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """Ends the text: bytes of an incomplete character are replaced."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
