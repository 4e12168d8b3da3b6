"""Checks that a port is free, and names the process that holds it."""

import errno
import socket

import psutil

from cli.errors import CommandError


def check_port(host: str, port: int) -> None:
    """Raises an error that says who holds the port and what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CommandError(busy_message(port)) from error
        raise CommandError(
            f"Can't listen on {host} port {port}: {error.strerror}. Choose others with --host, --port."
        ) from error


def free_port(host: str) -> int:
    """Picks a port that is free now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        return int(server.getsockname()[1])


def busy_message(port: int) -> str:
    """Says who holds a port, as far as this user may know, and the way around."""
    holder = _holder(port)
    if holder is None:
        by = "another program (run `sudo lsof -i :" + str(port) + "` to see which)"
    else:
        command = " ".join(holder.cmdline()[:4]) or holder.name()
        by = f"{holder.name()} (process {holder.pid}: {command[:80]})"
    return f"Port {port} is in use by {by}. Stop it, or take another: localcode up --port {port + 1}"


def _holder(port: int) -> psutil.Process | None:
    try:
        connections = psutil.net_connections(kind="tcp")
        pids = [c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port]
        return next((psutil.Process(pid) for pid in pids if pid), None)
    except psutil.Error:
        return _own_holder(port)


def _own_holder(port: int) -> psutil.Process | None:
    """Where the system-wide list is forbidden (macOS), looks at the processes that may be looked at."""
    for process in psutil.process_iter():
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections):
            return process
    return None
