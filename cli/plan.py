"""Decides which processes to run and what to tell each: pure, from the configuration to environment variables."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cli.config import Configuration, ModelEntry
from cli.memory import ram_bytes
from cli.sources import model_path
from cli.supervisor import ChildSpec

_FEWER_WAKE_UPS: Final = {"GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener"}
"""gRPC's pool of threads wakes seven times for a message where its older poller wakes three times: each time takes the
processor from llama.cpp, which keeps all cores busy."""


@dataclass(frozen=True)
class Service:
    """A process, and where it answers the gRPC health service once it serves."""

    spec: ChildSpec
    address: str
    model: str = ""
    """The local model that it runs, if it is a worker."""


@dataclass(frozen=True)
class Setting:
    """What one run of `up` adds to the configuration."""

    runtime_directory: Path
    log_directory: Path
    state_directory: Path
    environment: Mapping[str, str]
    host: str
    port: int
    redis_url: str | None
    memory_budget: int | None = None
    """Memory that loaded models may take together, if that is limited."""

    @property
    def supervisor_address(self) -> str:
        """Where routers ask for local models."""
        return _socket(self, "supervisor")


def plan_services(configuration: Configuration, models: Sequence[ModelEntry], setting: Setting) -> list[Service]:
    """All processes but Valkey and the edge, which speak no gRPC."""
    cache, router = _cache_address(configuration, setting), _router_address(configuration, setting)
    cache_variables = {
        "LOCALCODE_CACHE_LISTEN": cache,
        "LOCALCODE_CACHE_STATE_DIRECTORY": configuration.value(
            "cache", "state_directory", str(setting.state_directory)
        ),
    }
    if setting.redis_url:
        cache_variables["LOCALCODE_CACHE_REDIS_URL"] = setting.redis_url
    router_variables = {
        "LOCALCODE_ROUTER_LISTEN": router,
        "LOCALCODE_ROUTER_CACHE_ADDRESS": configuration.value("router", "cache_address", cache),
        "LOCALCODE_ROUTER_DEFAULT_MODEL": default_model(configuration, models),
        "LOCALCODE_ROUTER_SUPERVISOR_ADDRESS": setting.supervisor_address,
    }
    cache_spec = _spec("cache", "services.cache", configuration, setting, cache_variables)
    return [
        Service(replace(cache_spec, stops_last=True), cache),  # a worker that ends gives it what it still knows
        Service(_spec("router", "services.router", configuration, setting, router_variables), router),
        *(_model_service(index, model, configuration, models, setting) for index, model in enumerate(models)),
    ]


def plan_edge(configuration: Configuration, setting: Setting) -> ChildSpec:
    """The process that clients talk to."""
    variables = {
        "LOCALCODE_EDGE_HOST": setting.host,
        "LOCALCODE_EDGE_PORT": str(setting.port),
        "LOCALCODE_EDGE_ROUTER_ADDRESS": configuration.value(
            "edge", "router_address", _router_address(configuration, setting)
        ),
    }
    return _spec("edge", "edge", configuration, setting, variables)


def default_model(configuration: Configuration, models: Sequence[ModelEntry]) -> str:
    """The configured default if it runs, else the first local model, else the first of all."""
    running = {name for model in models for name in model.names}
    if configuration.default_model in running:
        return configuration.default_model
    return next((model.name for model in sorted(models, key=lambda model: not model.is_local)), "")


def _model_service(
    index: int, model: ModelEntry, configuration: Configuration, models: Sequence[ModelEntry], setting: Setting
) -> Service:
    prefix = "LOCALCODE_WORKER_" if model.is_local else "LOCALCODE_UPSTREAM_"
    address = str(model.values.get("listen") or _socket(setting, f"model-{index}-{model.name}"))
    variables = {
        f"{prefix}NAME": model.name,
        f"{prefix}LISTEN": address,
        f"{prefix}CACHE_ADDRESS": str(model.values.get("cache_address") or _cache_address(configuration, setting)),
    }
    if model.is_local:
        variables[f"{prefix}MODEL_PATH"] = str(model_path(model.source))
        variables[f"{prefix}STATE_DIRECTORY"] = configuration.value(
            "cache", "state_directory", str(setting.state_directory)
        )
        if model.draft:
            variables[f"{prefix}DRAFT_PATH"] = str(model_path(model.draft))
        if sum(other.is_local for other in models) > 1 and "compute_lock" not in model.values:
            variables[f"{prefix}COMPUTE_LOCK"] = str(setting.runtime_directory / "compute.lock")
        if (kept := ram_bytes(model, setting.memory_budget)) is not None:
            variables[f"{prefix}RAM_BYTES"] = str(kept)
    module = "services.worker" if model.is_local else "services.upstream"
    spec = _spec(f"model {model.name}", module, configuration, setting, variables)
    return Service(spec, address, model.name if model.is_local else "")


def _spec(
    name: str, module: str, configuration: Configuration, setting: Setting, variables: Mapping[str, str]
) -> ChildSpec:
    shared = {"LOCALCODE_LOG_DIRECTORY": str(setting.log_directory)}
    if configuration.path:
        shared["LOCALCODE_CONFIG"] = str(configuration.path.absolute())
    environment = {**_FEWER_WAKE_UPS, **setting.environment, **shared, **variables}
    return ChildSpec(name, (sys.executable, "-m", module), environment)


def _cache_address(configuration: Configuration, setting: Setting) -> str:
    return configuration.value("cache", "listen", _socket(setting, "cache"))


def _router_address(configuration: Configuration, setting: Setting) -> str:
    return configuration.value("router", "listen", _socket(setting, "router"))


def _socket(setting: Setting, name: str) -> str:
    return f"unix:{setting.runtime_directory}/{re.sub('[^A-Za-z0-9.-]', '_', name)[:32]}.sock"
