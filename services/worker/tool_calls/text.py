"""The text of an answer without the white space around its calls."""

from typing import Final

from services.worker.json_strings import SPACE
from services.worker.tool_calls.events import EventLog

_MAX_HELD_SPACES: Final = 1_024


class AnswerText:
    """Passes text on and knows its place in the line; white space waits until something follows it.

    Between two texts it is text, before and after calls it is dropped.
    """

    def __init__(self, log: EventLog) -> None:
        self.indent = 0
        self.starts_line = True
        self.is_after_call = False
        self._log = log
        self._space: list[str] = []
        self._has_text = False

    def put(self, char: str) -> None:
        """Takes a character of text."""
        if char in SPACE:
            self._put_space(char)
            return
        if self.is_after_call and not self._has_text:
            self._space = []
        self._pass_space()
        self._log.text(char)
        self.starts_line = self.is_after_call = False

    def skip_call(self) -> None:
        """A call stands here: what follows it may begin like a line."""
        self._space = []
        self.indent = 0
        self.starts_line = self.is_after_call = True

    def finish(self) -> None:
        """Ends the text."""
        if not self.is_after_call:
            self._pass_space()

    def _put_space(self, char: str) -> None:
        self._space.append(char)
        if char == "\n":
            self.indent = 0
            self.starts_line = True
        else:
            self.indent += 1
        if len(self._space) >= _MAX_HELD_SPACES and not self.is_after_call:
            self._pass_space()

    def _pass_space(self) -> None:
        if self._space:
            self._log.text("".join(self._space))
            self._space = []
        self._has_text = True
