"""Runs all of it on this machine: starts the processes, keeps them running, ends them."""

import asyncio
import os
import signal
import time
from collections.abc import Coroutine, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.markup import escape

from cli.banner import print_banner
from cli.config import Configuration, ModelEntry, choose_models, client_host, load_configuration
from cli.console import say
from cli.engine import Engine, probe_engine
from cli.errors import CommandError
from cli.guardian import Guardian
from cli.memory import UpSettings
from cli.model_keeper import ModelKeeper
from cli.model_plans import first_choice, plan_models
from cli.paths import log_directory, make_private, make_runtime_directory, state_directory, valkey_directory
from cli.plan import Service, Setting, plan_edge, plan_services
from cli.ports import check_port, free_port
from cli.pull import pull
from cli.readiness import Watch, wait_for_edge, wait_for_services
from cli.residency import Limits
from cli.running import RunningServer, announce, announced
from cli.server import NoServerError, ServerState, api_key, ask
from cli.sources import missing_files
from cli.supervisor import ChildSpec, Supervisor, supervised
from cli.supervisor_service import serving_models
from cli.validate import check_settings
from cli.valkey import child_spec, find_program
from cli.valkey import url as valkey_url
from services.shared.settings import load_settings

_DESCRIBE_SECONDS: Final = 5.0
_DESCRIBE_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True)
class UpOptions:
    """What the person asked for."""

    config: Path | None = None
    host: str | None = None
    port: int | None = None
    only: tuple[str, ...] = ()
    no_small: bool = False


@dataclass(frozen=True)
class Run:
    """All that one run of `up` has settled before it starts anything."""

    configuration: Configuration
    models: Sequence[ModelEntry]
    engine: Engine
    setting: Setting
    valkey: ChildSpec | None
    limits: Limits

    @property
    def devices(self) -> tuple[str, ...]:
        """What local models compute on, if there are any."""
        return self.engine.devices if any(model.is_local for model in self.models) else ()

    @property
    def url(self) -> str:
        """Where clients find the server."""
        return f"http://{client_host(self.setting.host)}:{self.setting.port}"


def run_up(options: UpOptions) -> None:
    """Serves until stopped."""
    configuration = load_configuration(options.config)
    host = options.host or configuration.edge.host
    port = configuration.edge.port if options.port is None else options.port
    port = port or free_port(host)
    with announced(f"http://{client_host(host)}:{port}"):
        check_port(host, port)
        engine = probe_engine()
        models = runnable_models(configuration, options, engine)
        check_settings(configuration, models)
        for model in models:
            for source in filter(missing_files, model.sources):
                pull(source)
        asyncio.run(_serve(_settle(configuration, models, engine, host, port)))


def runnable_models(configuration: Configuration, options: UpOptions, engine: Engine) -> list[ModelEntry]:
    """The models to run here; without a working engine, those that run elsewhere."""
    models = choose_models(configuration.models, only=options.only, no_small=options.no_small)
    if not engine.works and any(model.is_local for model in models):
        models = [model for model in models if not model.is_local]
        say("warning", f"No local model can run: llama-cpp-python doesn't work here ({escape(engine.problem)}).")
        say("warning", "Serving the upstream models only; `localcode doctor` says what to install.")
    if not models:
        raise CommandError("No model to serve: localcode.toml needs a table [models.<name>]. See `localcode models`.")
    return models


def _settle(configuration: Configuration, models: Sequence[ModelEntry], engine: Engine, host: str, port: int) -> Run:
    runtime, logs = make_runtime_directory(), make_private(_log_directory(configuration))
    redis_url, valkey = configuration.value("cache", "redis_url") or None, None
    if redis_url is None and (program := find_program()):
        socket = runtime / "valkey.sock"
        valkey = child_spec(program, data=make_private(valkey_directory()), socket=socket, log=logs / "valkey.log")
        redis_url = valkey_url(socket)
    if redis_url is None:
        say("warning", "No embedded Valkey for this platform: what the cache knows is lost when it stops.")
    limits = load_settings(UpSettings, "up", document=dict(configuration.document)).limits
    setting = Setting(
        runtime, logs, state_directory(), os.environ, host, port, redis_url, memory_budget=limits.memory_bytes
    )
    return Run(configuration, models, engine, setting, valkey, limits)


def _log_directory(configuration: Configuration) -> Path:
    return Path(configuration.value("log", "directory", str(log_directory()))).expanduser().absolute()


async def _serve(run: Run) -> None:
    stop, watch = asyncio.Event(), Watch()
    with Guardian() as guardian:
        guardian.own_directory(run.setting.runtime_directory)
        services = plan_services(run.configuration, run.models, run.setting)
        models = plan_models(run.models, services, run.limits)
        announce(RunningServer(os.getpid(), run.url, services[0].address))
        specs = [service.spec for service in services if not service.model]
        specs.append(plan_edge(run.configuration, run.setting))
        if run.valkey:
            specs.insert(0, run.valkey)
        async with supervised(specs, guardian=guardian, report=watch.ended) as supervisor:
            keeper = ModelKeeper(models, run.limits, supervisor)
            watch.on_end = keeper.ended
            _stop_on_signals(stop, supervisor)
            async with serving_models(keeper, run.setting.supervisor_address):
                first = keeper.load_first(first_choice(run.configuration, run.models))
                say("busy", f"Starting {escape(', '.join([*(spec.name for spec in specs), *first]))} …")
                await _unless_stopped(_start(run, services, watch, first), stop)
                keeper.announce = lambda text: say("ok", escape(text))
                await stop.wait()
            say("busy", "Stopping …")
    say("ok", "Stopped.")


async def _start(run: Run, services: Sequence[Service], watch: Watch, loaded: Sequence[str]) -> None:
    await wait_for_services([one for one in services if not one.model or one.model in loaded], watch)
    state, status = await state_when_ready(run.url, api_key(run.configuration), set(loaded), watch)
    print_banner(state, status, devices=run.devices, logs=run.setting.log_directory)


async def state_when_ready(url: str, key: str, names: Set[str], watch: Watch) -> tuple[ServerState, str]:
    """What the server says of itself, and its status, once it serves; an edge that ends meanwhile is waited for."""
    while True:
        status = await wait_for_edge(url, watch)
        try:
            return await _described(url, key, names), status
        except NoServerError:
            await asyncio.sleep(_DESCRIBE_POLL_SECONDS)


async def _described(url: str, key: str, names: Set[str]) -> ServerState:
    """What the server says of itself once every model named is known to it; after a while, what it says then."""
    deadline = time.monotonic() + _DESCRIBE_SECONDS
    while True:
        state = await asyncio.to_thread(ask, url, key)
        described = {model.name for model in state.models if model.size_bytes}
        if names <= described or time.monotonic() > deadline:
            return state
        await asyncio.sleep(_DESCRIBE_POLL_SECONDS)


async def _unless_stopped(work: Coroutine[None, None, None], stop: asyncio.Event) -> None:
    """Does the work to its end, or leaves it where it is at a stop."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        stopping.cancel()
        task.result()
    else:
        task.cancel()


def _stop_on_signals(stop: asyncio.Event, supervisor: Supervisor) -> None:
    """The first signal ends all in good order; the second one at once."""

    def on_signal() -> None:
        if stop.is_set():
            supervisor.kill_all()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
