"""Checks all tables that services will read before any is started, so that a slip shows as one line."""

from collections.abc import Iterable

from cli.config import Configuration, ModelEntry
from cli.memory import UpSettings
from cli.sources import wanted_files
from services.cache.settings import CacheSettings
from services.router.routes import RouteSettings
from services.router.settings import RouterSettings
from services.shared.settings import LogSettings, load_settings
from services.upstream.settings import UpstreamSettings
from services.worker.settings import WorkerSettings


def check_settings(configuration: Configuration, models: Iterable[ModelEntry]) -> None:
    """Raises an error that names the first wrong setting."""
    document = dict(configuration.document)
    load_settings(CacheSettings, "cache", document=document)
    load_settings(RouterSettings, "router", document=document)
    load_settings(RouteSettings, "routes", document=document)
    load_settings(LogSettings, "log", document=document)
    load_settings(UpSettings, "up", document=document)
    for model in models:
        _check_model(model)


def _check_model(model: ModelEntry) -> None:
    document = {"models": {model.name: {"name": model.name, **model.values}}}
    if model.is_local:
        load_settings(WorkerSettings, "models", model.name, document=document)
        wanted_files(model.source)
    else:
        load_settings(UpstreamSettings, "models", model.name, document=document)
