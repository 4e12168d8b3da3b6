"""Which model answers a request. Pure: the settings, the request's needs and the state of the models are arguments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.router.models import AUTO, Defaults, Model, default_model, find, named
from services.shared.settings import ServiceSettings

_DEFAULT: Final = "default"
_FALLBACK: Final = "fallback of"
_ANY: Final = "can answer"


class RouteSettings(ServiceSettings):
    """Where requests go that name no model, or one that can't answer: table `[routes]`, `LOCALCODE_ROUTES_*`."""

    model_config = SettingsConfigDict(env_prefix="LOCALCODE_ROUTES_")

    fallbacks: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Models that stand in for one that does not run or can't hold the prompt, such as `{coder = ["glm-4.7"]}`."""
    languages: dict[str, str] = Field(default_factory=dict)
    """Models by the language of the prompt (`zh`, `ja`, `ko`, `ru`, `ar`, `he`, `hi`, `el`, `th`)."""
    vision: str = ""
    """The model for prompts with images; empty means any that sees them."""
    long_answers: str = ""
    """The model for requests that allow more than `long_answer_tokens`; empty means no other than for short ones."""
    long_answer_tokens: int = Field(default=32_768, ge=1)
    """From how many allowed tokens on an answer counts as long. Agents ask for 8,000 to 32,000 whatever they need."""
    length_margin: float = Field(default=1.1, ge=1, le=4)
    """By how much a prompt may exceed a model's context before the model is passed by. Lengths are estimated here; the
    worker itself counts."""
    language_share: float = Field(default=0.2, gt=0, le=1)
    """Share of the last message's letters that must be of a script; code and names stay Latin in any language."""
    sooner_seconds: float = Field(default=20.0, gt=0)
    """By how much sooner another fit model must answer to be preferred: the cost of leaving a warm one."""


@dataclass(frozen=True)
class Wanted:
    """What a request needs of a model."""

    requested: str
    request_class: str
    prompt_token_count: int = 0
    has_images: bool = False
    has_tools: bool = False
    language: str = ""
    max_tokens: int = 0


@dataclass(frozen=True)
class ModelState:
    """A model as it is now."""

    is_live: bool = True
    """Whether it runs, or is loaded when someone asks for it."""
    sees_images: bool = False
    ignores_tools: bool = False
    """Whether it never learns of tools that are offered to it."""
    context_length: int = 0
    first_token_seconds: float = 0.0
    """Expected for this request, with the time to load the model."""


@dataclass(frozen=True)
class Considered:
    """A model that could answer, why it was thought of, and what is in the way."""

    model: str
    reason: str
    obstacle: str
    first_token_seconds: float


@dataclass(frozen=True)
class Choice:
    """The decision."""

    model: str
    reasons: tuple[str, ...]
    considered: tuple[Considered, ...]


def choose_model(
    wanted: Wanted,
    known: Sequence[Model],
    state_of: Callable[[str], ModelState],
    defaults: Defaults,
    routes: RouteSettings,
) -> Choice:
    """Chooses the first preferred model that can answer; an `auto` request leaves it for one that is much sooner.

    Where none can, the most preferred one is named: it may be starting, or its worker says what is wrong.
    """
    is_auto = not wanted.requested or wanted.requested == AUTO
    preferences = _automatic(wanted, known, defaults, routes) if is_auto else _explicit(wanted.requested, known)
    considered = _considered(_with_fallbacks(preferences, known, routes), wanted, state_of, routes)
    fit = [one for one in considered if not one.obstacle]
    if not fit and is_auto and _never_can(default_model(known, defaults), wanted, state_of, routes):
        others = [(model.name, _ANY) for model in known if not any(one.model == model.name for one in considered)]
        considered += _considered(others, wanted, state_of, routes)
        fit = [one for one in considered if not one.obstacle]
    if not fit:
        main = next((one for one in considered if one.reason == _DEFAULT), considered[0])
        return Choice(main.model, (main.reason, main.obstacle), tuple(considered))
    best, reasons = fit[0], [one.obstacle for one in considered[: considered.index(fit[0])]]
    preferred = [one for one in fit if not one.reason.startswith(_FALLBACK)]
    soonest = min(preferred, key=lambda one: one.first_token_seconds, default=best)
    if is_auto and best.first_token_seconds - soonest.first_token_seconds > routes.sooner_seconds:
        reasons.append(f"{best.first_token_seconds - soonest.first_token_seconds:.0f} s sooner than {best.model}")
        best = soonest
    rest = [one for one in considered if one is not best]
    return Choice(best.model, (best.reason, *reasons), (best, *rest))


def _explicit(requested: str, known: Sequence[Model]) -> list[tuple[str, str]]:
    name = named(requested, known)
    return [(name, "asked for" if name == requested else f"alias {requested}")]


def _automatic(
    wanted: Wanted, known: Sequence[Model], defaults: Defaults, routes: RouteSettings
) -> list[tuple[str, str]]:
    asked = [
        (routes.vision if wanted.has_images else "", "images"),
        (defaults.class_models.get(wanted.request_class, ""), f"class {wanted.request_class}"),
        (routes.languages.get(wanted.language, ""), f"language {wanted.language}"),
        (routes.long_answers if wanted.max_tokens > routes.long_answer_tokens else "", "long answer"),
        (default_model(known, defaults), _DEFAULT),
    ]
    preferences = [(name, reason) for configured, reason in asked if configured and (name := find(configured, known))]
    if wanted.has_images:
        preferences += [(model.name, "sees images") for model in known]
    return preferences


def _with_fallbacks(
    preferences: Sequence[tuple[str, str]], known: Sequence[Model], routes: RouteSettings
) -> list[tuple[str, str]]:
    """Puts behind the preferences who stands in for them, and for those in turn."""
    chain: dict[str, str] = {}
    for name, reason in preferences:
        chain.setdefault(name, reason)
    stand_ins = {find(name, known): fallbacks for name, fallbacks in routes.fallbacks.items()}
    waiting = list(chain)
    for name in waiting:
        for fallback in stand_ins.get(name, ()):
            if (found := find(fallback, known)) and found not in chain:
                chain[found] = f"{_FALLBACK} {name}"
                waiting.append(found)
    return list(chain.items())


def _considered(
    chain: Sequence[tuple[str, str]], wanted: Wanted, state_of: Callable[[str], ModelState], routes: RouteSettings
) -> list[Considered]:
    return [_consider(name, reason, wanted, state_of(name), routes) for name, reason in chain]


def _consider(name: str, reason: str, wanted: Wanted, state: ModelState, routes: RouteSettings) -> Considered:
    return Considered(name, reason, _obstacle(name, wanted, state, routes), state.first_token_seconds)


def _never_can(name: str, wanted: Wanted, state_of: Callable[[str], ModelState], routes: RouteSettings) -> bool:
    """Whether a model could not answer even if it ran: one that starts again is worth waiting for."""
    return bool(_obstacle(name, wanted, replace(state_of(name), is_live=True), routes))


def _obstacle(name: str, wanted: Wanted, state: ModelState, routes: RouteSettings) -> str:
    if not state.is_live:
        return f"{name} does not run"
    if wanted.has_images and not state.sees_images:
        return f"{name} sees no images"
    if wanted.has_tools and state.ignores_tools:
        return f"{name} takes no tools"
    if state.context_length and wanted.prompt_token_count > state.context_length * routes.length_margin:
        return f"about {wanted.prompt_token_count} tokens exceed {name}'s {state.context_length}"
    return ""
