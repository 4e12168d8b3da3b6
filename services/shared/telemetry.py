"""Logs and metrics of a process. Logs are events with fields and hold no content of prompts or answers."""

import logging
import logging.handlers
import sys
from typing import Any

import structlog
from prometheus_client import start_http_server

from services.shared.settings import LogSettings


def is_pretty(settings: LogSettings) -> bool:
    """Says whether logs are for a person's eyes."""
    return settings.format == "pretty" or (settings.format == "auto" and sys.stderr.isatty())


def shows_content(settings: LogSettings) -> bool:
    """Says whether text of prompts and answers may be shown outside of the answer itself."""
    return settings.content in ("preview", "full") or (settings.content == "auto" and is_pretty(settings))


def configure_logging(settings: LogSettings, *, process: str) -> None:
    """Sends all log events of this process to its error stream, and to a rotated file if a directory is set."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not is_pretty(settings)),
    ]
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setFormatter(_formatter(shared, pretty=is_pretty(settings)))
    if settings.directory is not None:
        handlers.append(_file_handler(settings, process, shared))
    root = logging.getLogger()
    root.handlers[:] = handlers
    root.setLevel(settings.level.upper())
    for noisy in ("httpx", "httpcore", "grpc", "asyncio", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)


def serve_metrics(port: int) -> None:
    """Serves this process's Prometheus metrics on loopback; port 0 serves none."""
    if port:
        start_http_server(port, addr="127.0.0.1")


def _formatter(shared: list[Any], *, pretty: bool) -> logging.Formatter:
    render: Any = structlog.dev.ConsoleRenderer(colors=True) if pretty else structlog.processors.JSONRenderer()
    processors: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if not pretty:
        processors.append(structlog.processors.format_exc_info)
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*processors, render])


def _file_handler(settings: LogSettings, process: str, shared: list[Any]) -> logging.Handler:
    assert settings.directory is not None
    settings.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = logging.handlers.RotatingFileHandler(
        settings.directory / f"{process}.log", maxBytes=settings.max_file_bytes, backupCount=5, encoding="utf-8"
    )
    handler.setFormatter(_formatter(shared, pretty=False))
    return handler
