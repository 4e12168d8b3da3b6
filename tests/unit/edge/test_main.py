import pytest

from edge.__main__ import CannotListen, listen


def test_a_busy_port_is_named_with_the_remedy() -> None:
    with listen("127.0.0.1", 0) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(CannotListen, match=f"Port {port} .*in use.*--port or LOCALCODE_EDGE_PORT"):
            listen("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0)
