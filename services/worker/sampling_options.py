"""How tokens are chosen: what a request asks for, within bounds, and the samplers that this takes. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest

DEFAULT_SAMPLERS: Final = (
    pb.SAMPLER_PENALTIES, pb.SAMPLER_DRY, pb.SAMPLER_TOP_N_SIGMA, pb.SAMPLER_TOP_K, pb.SAMPLER_TYPICAL_P,
    pb.SAMPLER_TOP_P, pb.SAMPLER_MIN_P, pb.SAMPLER_XTC, pb.SAMPLER_TEMPERATURE, pb.SAMPLER_ADAPTIVE_P,
)  # fmt: skip
"""llama.cpp's order."""
_KNOWN_SAMPLERS: Final = frozenset({*DEFAULT_SAMPLERS, pb.SAMPLER_INFILL})
DEFAULT_BREAKERS: Final = ("\n", ":", '"', "*")
MIROSTAT_CANDIDATES: Final = 100
RANDOM_SEED: Final = 0xFFFFFFFF
_MOST: Final = 2**31 - 1
_BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "temperature": (0, 100), "top_p": (0, 1), "top_k": (0, _MOST), "min_p": (0, 1), "min_keep": (0, _MOST),
    "seed": (0, 2**32 - 1), "frequency_penalty": (-2, 2), "presence_penalty": (-2, 2), "repeat_penalty": (1e-3, 10),
    "repeat_last_n": (-1, _MOST), "typical_p": (0, 1), "top_n_sigma": (-1, 100), "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1), "dry_multiplier": (0, 100), "dry_base": (0, 100), "dry_allowed_length": (0, _MOST),
    "dry_penalty_last_n": (-1, _MOST), "mirostat": (0, 2), "mirostat_tau": (0, 100), "mirostat_eta": (0, 1),
    "dynatemp_range": (0, 100), "dynatemp_exponent": (0, 100), "adaptive_target": (-1, 1), "adaptive_decay": (0, 0.99),
}  # fmt: skip
_MAX_BREAKERS: Final = 16
_MARGIN: Final = 0.01
_ROUNDING: Final = 1e-6  # of 32-bit floats


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen, all defaults filled in. Meanings: `localcode.inference.v1.SamplingParams`."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    min_keep: int = 0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = DEFAULT_BREAKERS
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    samplers: tuple["pb.Sampler.ValueType", ...] = DEFAULT_SAMPLERS
    logit_bias: dict[int, float] = field(default_factory=dict)
    grammar: str = ""
    history_limit: int = 4096
    """Tokens that -1 stands for where a number of last tokens is meant."""

    @property
    def has_penalties(self) -> bool:
        """Whether tokens that occurred become less likely."""
        is_on = bool(self.frequency_penalty or self.presence_penalty) or self.repeat_penalty != 1.0
        return is_on and self.repeat_last_n != 0 and pb.SAMPLER_PENALTIES in self.samplers

    @property
    def has_dry(self) -> bool:
        """Whether repeated sequences become less likely."""
        return self.dry_multiplier > 0 and self.dry_base >= 1 and self.dry_penalty_last_n != 0 and (
            pb.SAMPLER_DRY in self.samplers
        )  # fmt: skip

    @property
    def window(self) -> int:
        """How many of the last tokens, the prompt's included, bear on the choice."""
        return max(
            self._count(self.repeat_last_n) if self.has_penalties else 0,
            self._count(self.dry_penalty_last_n) if self.has_dry else 0,
        )

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken, once penalties and biases are counted."""
        removes_the_likeliest = (
            (self.xtc_probability > 0 and pb.SAMPLER_XTC in self.samplers)
            or (self.typical_p < 1 and pb.SAMPLER_TYPICAL_P in self.samplers)
            or pb.SAMPLER_INFILL in self.samplers
        )
        return self.temperature == 0 and not (self.dynatemp_range or removes_the_likeliest or self.mirostat)

    def _count(self, last_n: int) -> int:
        return self.history_limit if last_n < 0 else min(last_n, self.history_limit)

    @property
    def repeat_window(self) -> int:
        """Last tokens that penalties look at."""
        return self._count(self.repeat_last_n)

    @property
    def dry_window(self) -> int:
        """Last tokens that DRY looks at."""
        return self._count(self.dry_penalty_last_n)


@dataclass(frozen=True)
class Step:
    """One sampler and its arguments, in the order of llama.cpp's function."""

    name: str
    arguments: tuple[float, ...] = ()


def chain_steps(options: SamplingOptions) -> list[Step]:
    """The samplers of a request in order; those that change nothing are left out."""
    seed = RANDOM_SEED if options.seed is None else options.seed
    steps = [Step("logit_bias")] if options.logit_bias else []
    if options.is_greedy:
        return [*steps, *_adjusting(options), Step("greedy")]
    if options.mirostat:
        mirostat = (seed, options.mirostat_tau, options.mirostat_eta)
        last = Step("mirostat", (*mirostat, MIROSTAT_CANDIDATES)) if options.mirostat == 1 else Step(
            "mirostat_v2", mirostat)  # fmt: skip
        return [*steps, *_adjusting(options), _temperature(options), last]
    made = {
        pb.SAMPLER_PENALTIES: [step for step in _adjusting(options) if step.name == "penalties"],
        pb.SAMPLER_DRY: [step for step in _adjusting(options) if step.name == "dry"],
        pb.SAMPLER_TOP_N_SIGMA: [Step("top_n_sigma", (options.top_n_sigma,))] if options.top_n_sigma > 0 else [],
        pb.SAMPLER_TOP_K: [Step("top_k", (options.top_k,))] if options.top_k else [],
        pb.SAMPLER_TYPICAL_P: _kept(options, "typical", options.typical_p, off=1),
        pb.SAMPLER_TOP_P: _kept(options, "top_p", options.top_p, off=1),
        pb.SAMPLER_MIN_P: _kept(options, "min_p", options.min_p, off=0),
        pb.SAMPLER_XTC: _xtc(options, seed),
        pb.SAMPLER_TEMPERATURE: [_temperature(options)],
        pb.SAMPLER_INFILL: [Step("infill")],
        pb.SAMPLER_ADAPTIVE_P: [],
    }
    for sampler in options.samplers:
        steps += made[sampler]
    if options.adaptive_target >= 0 and pb.SAMPLER_ADAPTIVE_P in options.samplers:
        return [*steps, Step("adaptive_p", (options.adaptive_target, options.adaptive_decay, seed))]
    return [*steps, Step("dist", (seed,))]


def likeliest_needed(steps: Sequence[Step]) -> int | None:
    """How many of the likeliest tokens decide the choice, beside those whose logits were changed; nothing if all do."""
    for step in steps:
        if step.name == "greedy":
            return 1
        if step.name == "top_k":
            return int(step.arguments[0])
        if step.name not in ("logit_bias", "penalties", "dry"):
            return None
    return None


def distance_needed(steps: Sequence[Step]) -> float | None:
    """How far below the highest logit tokens can be that matter; nothing if the samplers don't say at once."""
    first = steps[0]
    if first.name == "min_p" and first.arguments[0] > 0 and first.arguments[1] == 1:
        return _MARGIN - math.log(first.arguments[0])
    return None


def only_lowers(options: SamplingOptions) -> bool:
    """Whether the likeliest token is chosen unless its own logit was changed: others can only become less likely."""
    lowers = (
        options.repeat_penalty >= 1 and options.frequency_penalty >= 0 and options.presence_penalty >= 0
        and options.dry_multiplier >= 0
    )  # fmt: skip
    return options.is_greedy and lowers and all(bias <= 0 for bias in options.logit_bias.values())


def check_bounds(asked: pb.SamplingParams) -> None:
    """Refuses values out of range, by the names of the HTTP request."""
    for field_, value in asked.ListFields():
        low, high = _BOUNDS.get(field_.name, (0, 0))
        if field_.name in _BOUNDS and not low - _ROUNDING <= value <= high + _ROUNDING:  # NaN is refused too
            raise InvalidRequest(f"{field_.name} must lie between {low:g} and {high:g}.", param=field_.name)
    if len(asked.dry_sequence_breakers) > _MAX_BREAKERS or "" in asked.dry_sequence_breakers:
        message = f"dry_sequence_breakers must be at most {_MAX_BREAKERS} texts, none of them empty."
        raise InvalidRequest(message, param="dry_sequence_breakers")
    if any(sampler not in _KNOWN_SAMPLERS for sampler in asked.samplers):
        raise InvalidRequest("samplers names a sampler that does not exist.", param="samplers")
    if len(set(asked.samplers)) < len(asked.samplers):
        raise InvalidRequest("samplers names a sampler twice.", param="samplers")


def _adjusting(options: SamplingOptions) -> list[Step]:
    """What changes the logits of tokens that occurred."""
    steps = []
    if options.has_penalties:
        penalties = (options.repeat_penalty, options.frequency_penalty, options.presence_penalty)
        steps.append(Step("penalties", (options.repeat_window, *penalties)))
    if options.has_dry:
        dry = (options.dry_multiplier, options.dry_base, options.dry_allowed_length, options.dry_window)
        steps.append(Step("dry", dry))
    return steps


def _temperature(options: SamplingOptions) -> Step:
    if options.dynatemp_range > 0:
        return Step("temp_ext", (options.temperature, options.dynatemp_range, options.dynatemp_exponent))
    return Step("temp", (options.temperature,))


def _kept(options: SamplingOptions, name: str, value: float, *, off: float) -> list[Step]:
    return [] if value == off else [Step(name, (value, max(options.min_keep, 1)))]


def _xtc(options: SamplingOptions, seed: int) -> list[Step]:
    if options.xtc_probability <= 0 or options.xtc_threshold > 0.5:
        return []
    return [Step("xtc", (options.xtc_probability, options.xtc_threshold, max(options.min_keep, 1), seed))]
