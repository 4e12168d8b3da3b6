"""Runs the edge: `python -m edge`."""

import argparse
import errno
import signal
import socket
import sys

import structlog
import uvicorn

from edge.app import build_app
from edge.logs import keep_conversations_off_the_terminal
from edge.settings import EdgeSettings
from services.shared.settings import ConfigurationError, LogSettings, load_settings
from services.shared.telemetry import configure_logging

_BACKLOG = 2048
_log = structlog.get_logger("edge")


class CannotListen(Exception):
    """The address can't be bound; the message says why and what to do."""


def main() -> int:
    """Serves until stopped; 1 if it can't start."""
    try:
        settings, log_settings = _settings()
        listener = listen(settings.host, settings.port)
    except (ConfigurationError, CannotListen) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    configure_logging(log_settings, process="edge")
    keep_conversations_off_the_terminal(log_settings)
    config = uvicorn.Config(
        build_app(settings, log_settings),
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.graceful_shutdown_seconds,
    )
    host, port = listener.getsockname()[:2]
    _log.info("edge_listens", url=f"http://{host}:{port}", router_address=settings.router_address)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))  # uvicorn raises the signal again when it has stopped
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """Binds the port before anything else starts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = "is in use by another program" if error.errno == errno.EADDRINUSE else f"can't be used: {error}"
        raise CannotListen(
            f"Port {port} on {host} {reason}. Choose another with --port or LOCALCODE_EDGE_PORT."
        ) from error


def _settings() -> tuple[EdgeSettings, LogSettings]:
    parser = argparse.ArgumentParser(prog="python -m edge", description="The HTTP edge of LocalCode.")
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="port to listen on")
    chosen = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    settings = load_settings(EdgeSettings, "edge")
    return settings.model_copy(update=chosen), load_settings(LogSettings, "log")


if __name__ == "__main__":
    sys.exit(main())
