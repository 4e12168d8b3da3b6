import os
import socket

import pytest

from cli.errors import CommandError
from cli.ports import check_port, free_port


def test_a_busy_port_names_its_holder_and_the_way_around() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(CommandError) as caught:
            check_port("127.0.0.1", port)
    message = caught.value.message
    assert message.startswith(f"Port {port} is in use by ")
    assert f"(process {os.getpid()}: " in message
    assert message.endswith(f"localcode up --port {port + 1}")


def test_a_free_port_passes() -> None:
    check_port("127.0.0.1", free_port("127.0.0.1"))


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(CommandError, match=r"Can't listen on 192\.0\.2\.1 port 4242: .*--host, --port"):
        check_port("192.0.2.1", 4242)
