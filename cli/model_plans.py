"""Plans which local models are kept, what each takes, and whether that can work. Pure but for the files it looks at."""

from collections.abc import Iterable, Sequence

from cli.config import Configuration, ModelEntry
from cli.console import human_bytes
from cli.errors import CommandError
from cli.memory import model_bytes
from cli.model_keeper import ModelPlan
from cli.plan import Service, default_model
from cli.residency import Limits, Resident, misfits


def plan_models(models: Sequence[ModelEntry], services: Iterable[Service], limits: Limits) -> list[ModelPlan]:
    """The local models, or an error that says which of them can never be loaded."""
    by_model = {service.model: service for service in services}
    plans = [
        ModelPlan(model.name, by_model[model.name], _bytes(model, limits), model.is_pinned)
        for model in models
        if model.is_local
    ]
    _check(plans, limits)
    return plans


def first_choice(configuration: Configuration, models: Sequence[ModelEntry]) -> str:
    """The model to load before all that are not pinned."""
    default = default_model(configuration, models)
    return next((model.name for model in models if default in model.names), "")


def _bytes(model: ModelEntry, limits: Limits) -> int:
    """Without a limit nobody asks, and a damaged file is the worker's to complain about."""
    return 0 if limits.memory_bytes is None else model_bytes(model, limits.memory_bytes)


def _check(plans: Sequence[ModelPlan], limits: Limits) -> None:
    residents = [Resident(plan.name, plan.memory_bytes, is_pinned=plan.is_pinned) for plan in plans]
    wrong = misfits(residents, limits)
    if not wrong or limits.memory_bytes is None:
        return
    sizes = ", ".join(
        f"{plan.name} {human_bytes(plan.memory_bytes)}{' (pinned)' if plan.is_pinned else ''}" for plan in plans
    )
    raise CommandError(
        f"memory_budget in [up] is {human_bytes(limits.memory_bytes)}, too little for {', '.join(wrong)} "
        f"beside what is pinned: {sizes}. Raise it, pin fewer models, or give them a smaller context or ram_bytes.",
        exit_code=2,
    )
