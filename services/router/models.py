"""Which models there are, and which one a request means."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from services.shared.errors import ModelNotFound, NoWorker

AUTO: Final = "auto"


@dataclass(frozen=True)
class Model:
    """A model that is configured or that a worker registered."""

    name: str
    aliases: tuple[str, ...] = ()
    context_length: int = 0


@dataclass(frozen=True)
class Defaults:
    """The models of requests that name none."""

    default_model: str = ""
    class_models: Mapping[str, str] = field(default_factory=dict)


def configured_models(document: Mapping[str, Any]) -> tuple[Model, ...]:
    """Reads name, aliases and context length of every table `[models.<name>]`; the rest belongs to its own service."""
    tables = document.get("models", {})
    return tuple(_model(name, table) for name, table in tables.items() if isinstance(table, dict))


def merge(*sources: Iterable[Model]) -> tuple[Model, ...]:
    """Joins models of the same name, in the order in which they are first named."""
    merged: dict[str, Model] = {}
    for model in (model for source in sources for model in source):
        old = merged.get(model.name, model)
        aliases = tuple(dict.fromkeys((*old.aliases, *model.aliases)))
        merged[model.name] = Model(model.name, aliases, model.context_length or old.context_length)
    return tuple(merged.values())


def default_model(known: Sequence[Model], defaults: Defaults) -> str:
    """Names the model of requests that name none."""
    if defaults.default_model:
        return named(defaults.default_model, known)
    if not known:
        raise NoWorker("No model is configured, and no worker has registered one yet.", retry_after_seconds=5.0)
    return known[0].name


def named(name: str, known: Sequence[Model]) -> str:
    """Finds the model of a name or alias, or says which names there are."""
    found = find(name, known)
    if found is None:
        names = ", ".join(model.name for model in known) or "none"
        raise ModelNotFound(f"The model {name!r} does not exist. Known models: {names}.", param="model")
    return found


def find(name: str, known: Sequence[Model]) -> str | None:
    """Finds the model of a name or alias."""
    if any(model.name == name for model in known):
        return name
    return next((model.name for model in known if name in model.aliases), None)


def _model(name: str, table: Mapping[str, Any]) -> Model:
    aliases = table.get("aliases", ())
    context = table.get("context", table.get("context_length", 0))
    return Model(
        str(table.get("name") or name),
        tuple(str(alias) for alias in aliases) if isinstance(aliases, list) else (),
        context if isinstance(context, int) else 0,
    )
