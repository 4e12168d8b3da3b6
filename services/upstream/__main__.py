"""Runs one upstream: `python -m services.upstream`, with `LOCALCODE_UPSTREAM_NAME` naming its table."""

import os
import sys
import uuid
from functools import partial

import structlog
import uvloop
from pydantic import SecretStr

from localcode.inference.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from services.shared.grpc_runtime import HealthService, running_server, wait_for_stop_signal
from services.shared.registration import registered
from services.shared.settings import ConfigurationError, LogSettings, load_settings
from services.shared.telemetry import configure_logging
from services.upstream.client import open_client
from services.upstream.servicer import InferenceServicer
from services.upstream.settings import UpstreamSettings, api_key

_NAME_VARIABLE = "LOCALCODE_UPSTREAM_NAME"
_log = structlog.get_logger(__name__)


async def serve(settings: UpstreamSettings, key: SecretStr) -> None:
    """Serves until a stop signal."""
    health_service = HealthService()
    async with open_client(settings, key) as client:
        servicer = InferenceServicer(client, settings, worker_id=f"{settings.name}-{uuid.uuid4().hex[:12]}")
        register = partial(add_InferenceServiceServicer_to_server, servicer)
        async with running_server(settings.listen, register, health_service=health_service) as address:
            await health_service.set_serving(True)
            async with registered(settings.cache_address, partial(servicer.worker, address)):
                _log.info("serving", address=address, model=settings.name, remote=settings.host)
                await wait_for_stop_signal()


def main() -> None:
    """Reads the settings and serves; says what is wrong with them otherwise."""
    try:
        configure_logging(load_settings(LogSettings, "log"), process="upstream")
        settings = load_settings(UpstreamSettings, "models", os.environ.get(_NAME_VARIABLE, ""))
        key = api_key(settings, os.environ)
        uvloop.run(serve(settings, key))
    except ConfigurationError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
