"""What all gRPC servers have in common."""

import socket

import pytest

from services.shared.grpc_runtime import HealthService, running_server
from services.shared.settings import ConfigurationError


async def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=address):
            async with running_server(address, lambda server: None, health_service=HealthService()):
                pass
