"""Runs the router: `python -m services.router`."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import uvloop
from grpc.aio import Server

from localcode.cache.v1.cache_pb2_grpc import CacheServiceStub
from localcode.inference.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from localcode.inference.v1.state_pb2_grpc import add_StateServiceServicer_to_server
from localcode.router.v1.router_pb2_grpc import add_RouterServiceServicer_to_server
from localcode.supervisor.v1.supervisor_pb2_grpc import SupervisorServiceStub
from services.router.flights import Flights
from services.router.forward import Forwarder
from services.router.gate import Gate
from services.router.lineages import Lineages
from services.router.metrics import RouterMetrics
from services.router.models import Model, configured_models
from services.router.residency import Residency
from services.router.routes import RouteSettings
from services.router.servicer import RouterServicer
from services.router.settings import RouterSettings
from services.router.state import StateServicer
from services.router.workers import WorkerDirectory
from services.shared.grpc_runtime import HealthService, open_channel, running_server, wait_for_stop_signal
from services.shared.settings import ConfigurationError, LogSettings, load_document, load_settings
from services.shared.telemetry import configure_logging, serve_metrics

_log = structlog.get_logger(__name__)


async def serve(settings: RouterSettings, routes: RouteSettings, configured: tuple[Model, ...]) -> None:
    """Serves until a stop signal."""
    serve_metrics(settings.metrics_port)
    metrics = RouterMetrics()
    health_service = HealthService()
    async with open_channel(settings.cache_address) as channel, _residency(settings.supervisor_address) as residency:
        cache = CacheServiceStub(channel)
        lineages = Lineages(cache)
        workers = WorkerDirectory(cache)
        gate = Gate(workers, queue_size=settings.queue_size)
        workers.is_leaving = residency.is_leaving
        workers.is_awaited = lambda: any(gate.waiting_counts().values())
        residency.open_counts, residency.on_change = workers.open_counts, gate.dispatch_all
        forwarder = Forwarder(
            workers, gate, lineages, metrics, worker_wait_seconds=settings.worker_wait_seconds,
            resume_wait_seconds=settings.resume_wait_seconds, residency=residency,
            load_wait_seconds=settings.load_wait_seconds,
        )  # fmt: skip
        flights = Flights(rejoin_seconds=settings.rejoin_seconds)
        gate.make_room = flights.make_room
        servicer = RouterServicer(settings, configured, workers, gate, forwarder, flights, metrics, routes, residency)

        def register(server: Server) -> None:
            add_InferenceServiceServicer_to_server(servicer, server)
            add_RouterServiceServicer_to_server(servicer, server)
            add_StateServiceServicer_to_server(StateServicer(settings, configured, workers), server)

        async with workers.watching(), residency.watching():
            async with running_server(
                settings.listen, register, health_service=health_service, stop_grace_seconds=settings.drain_seconds
            ) as address:
                await health_service.set_serving(True)
                _log.info("router_ready", address=address, models=[model.name for model in configured])
                await wait_for_stop_signal()
            await flights.aclose()
        await lineages.close()


@asynccontextmanager
async def _residency(address: str) -> AsyncIterator[Residency]:
    if not address:
        yield Residency(None)
        return
    async with open_channel(address) as channel:
        yield Residency(SupervisorServiceStub(channel))


def main() -> None:
    """Reads the settings and serves; says what is wrong with them otherwise."""
    try:
        document = load_document()
        configure_logging(load_settings(LogSettings, "log", document=document), process="router")
        settings = load_settings(RouterSettings, "router", document=document)
        routes = load_settings(RouteSettings, "routes", document=document)
        uvloop.run(serve(settings, routes, configured_models(document)))
    except ConfigurationError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
