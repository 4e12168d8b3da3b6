"""Where log events of conversations go: to a person's terminal, or as JSON to the log."""

import logging
import logging.handlers
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from rich.console import Console

from edge.log_events import Content, Fields
from edge.pretty import render
from services.shared.settings import LogSettings
from services.shared.telemetry import is_pretty

_LOGGER_NAME: Final = "edge.conversations"
_MAX_NOTED_FIELDS: Final = 256
_log = structlog.get_logger(__name__)
_conversations = structlog.get_logger(_LOGGER_NAME)


class ConversationLog:
    """Writes events in the form, severity and openness that the settings ask for."""

    def __init__(self, settings: LogSettings, *, console: Console | None = None) -> None:
        self._level = logging.getLevelNamesMapping()[settings.level.upper()]
        self._console = console if is_pretty(settings) else None
        self._has_json = not is_pretty(settings) or settings.directory is not None
        self._pretty_content: Content = "preview" if settings.content == "auto" else settings.content
        self._json_content: Content = "none" if settings.content == "auto" else settings.content

    @property
    def shows_chunks(self) -> bool:
        """Whether every piece of an answer is logged."""
        return self._level <= logging.DEBUG

    def write(self, build: Callable[[Content], Fields], *, level: int = logging.INFO) -> None:
        """Writes one event; `build` makes it with as much content as is wanted."""
        if level < self._level:
            return
        if self._console is not None:
            self._console.print(render(build(self._pretty_content)), highlight=False, soft_wrap=True)
        if self._has_json:
            _conversations.log(level, **build(self._json_content))


class UnknownFields:
    """Notes fields that mean nothing here, each name once."""

    def __init__(self) -> None:
        self._noted: set[str] = set()

    def note(self, names: Iterable[str]) -> None:
        """Logs the names that were not seen before."""
        for name in names:
            if name not in self._noted and len(self._noted) < _MAX_NOTED_FIELDS:
                self._noted.add(name)
                _log.info("unknown_field_ignored", field=name[:100])


def keep_conversations_off_the_terminal(settings: LogSettings) -> None:
    """Where a person reads the pretty form, the JSON form goes to log files only."""
    if not is_pretty(settings):
        return
    logger = logging.getLogger(_LOGGER_NAME)
    files = logging.handlers.RotatingFileHandler
    logger.handlers[:] = [handler for handler in logging.getLogger().handlers if isinstance(handler, files)]
    logger.propagate = False
