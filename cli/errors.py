"""The error that a command ends with."""


class CommandError(Exception):
    """Something the person can put right; the message says what is wrong and what to do."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
