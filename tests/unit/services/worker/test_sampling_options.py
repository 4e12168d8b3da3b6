import math
from typing import Any

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest
from services.worker.sampling_options import SamplingOptions, Step, chain_steps, check_bounds, likeliest_needed


def steps_of(**options: Any) -> list[str]:
    return [step.name for step in chain_steps(SamplingOptions(**{"temperature": 1.0, "seed": 7, **options}))]


EVERYTHING: dict[str, Any] = {
    "repeat_penalty": 1.1, "dry_multiplier": 0.8, "top_n_sigma": 1.0, "top_k": 40, "typical_p": 0.9, "top_p": 0.9,
    "min_p": 0.1, "xtc_probability": 0.5, "logit_bias": {3: 1.0},
}  # fmt: skip


def test_samplers_that_change_nothing_are_left_out() -> None:
    assert steps_of() == ["temp", "dist"]


def test_all_samplers_stand_in_llama_cpps_order() -> None:
    assert steps_of(**EVERYTHING) == [
        "logit_bias", "penalties", "dry", "top_n_sigma", "top_k", "typical", "top_p", "min_p", "xtc", "temp", "dist",
    ]  # fmt: skip


def test_the_order_asked_for_is_kept_and_what_it_leaves_out_is_off() -> None:
    samplers = (pb.SAMPLER_TEMPERATURE, pb.SAMPLER_MIN_P, pb.SAMPLER_TOP_K)
    assert steps_of(**EVERYTHING, samplers=samplers) == ["logit_bias", "temp", "min_p", "top_k", "dist"]


def test_infill_runs_where_it_is_named_and_nowhere_else() -> None:
    assert "infill" not in steps_of(**EVERYTHING)
    assert steps_of(samplers=(pb.SAMPLER_TOP_K, pb.SAMPLER_INFILL), top_k=4) == ["top_k", "infill", "dist"]
    assert steps_of(samplers=(pb.SAMPLER_INFILL,), temperature=0) == ["infill", "dist"]


def test_what_adapts_comes_last_and_only_if_it_is_not_left_out() -> None:
    named = (pb.SAMPLER_ADAPTIVE_P, pb.SAMPLER_TEMPERATURE)
    assert steps_of(samplers=named, adaptive_target=0.5) == ["temp", "adaptive_p"]
    assert steps_of(samplers=(pb.SAMPLER_TEMPERATURE,), adaptive_target=0.5) == ["temp", "dist"]


def test_temperature_zero_takes_the_likeliest_behind_penalties() -> None:
    assert steps_of(temperature=0, **{**EVERYTHING, "typical_p": 1, "xtc_probability": 0}) == [
        "logit_bias", "penalties", "dry", "greedy",
    ]  # fmt: skip


def test_temperature_zero_still_heeds_what_removes_the_likeliest() -> None:
    assert steps_of(temperature=0, xtc_probability=0.5) == ["xtc", "temp", "dist"]


@pytest.mark.parametrize(("version", "last"), [(1, "mirostat"), (2, "mirostat_v2")])
def test_mirostat_replaces_what_cuts_the_distribution(version: int, last: str) -> None:
    assert steps_of(**EVERYTHING, mirostat=version) == ["logit_bias", "penalties", "dry", "temp", last]


def test_arguments_reach_their_samplers() -> None:
    options = SamplingOptions(
        temperature=0.5, seed=7, frequency_penalty=0.1, presence_penalty=0.2, repeat_last_n=5, dry_multiplier=0.8,
        dry_allowed_length=3, dry_penalty_last_n=9, dynatemp_range=0.25, dynatemp_exponent=2, adaptive_target=0.4,
        xtc_probability=0.5, xtc_threshold=0.2, min_keep=2,
    )  # fmt: skip
    assert chain_steps(options) == [
        Step("penalties", (5, 1.0, 0.1, 0.2)),
        Step("dry", (0.8, 1.75, 3, 9)),
        Step("xtc", (0.5, 0.2, 2, 7)),
        Step("temp_ext", (0.5, 0.25, 2)),
        Step("adaptive_p", (0.4, 0.9, 7)),
    ]


def test_minus_one_means_the_whole_history() -> None:
    options = SamplingOptions(temperature=1, repeat_penalty=1.1, repeat_last_n=-1, history_limit=500)
    assert options.window == 500
    assert SamplingOptions(temperature=1, repeat_penalty=1.1, repeat_last_n=10**9, history_limit=500).window == 500
    assert SamplingOptions(temperature=1, repeat_penalty=1.0).window == 0


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({"top_k": 20, "repeat_penalty": 1.1}, 20),
        ({"temperature": 0, "logit_bias": {1: 1.0}}, 1),
        ({"top_k": 20, "top_n_sigma": 1.0}, None),
        ({"top_p": 0.9}, None),
        ({"mirostat": 2, "top_k": 20}, None),
        ({"top_k": 20, "samplers": (pb.SAMPLER_TEMPERATURE, pb.SAMPLER_TOP_K)}, None),
    ],
)
def test_only_chains_that_cut_first_can_do_with_the_likeliest(options: dict[str, Any], needed: int | None) -> None:
    assert likeliest_needed(chain_steps(SamplingOptions(**{"temperature": 1.0, **options}))) == needed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("top_p", 1.5), ("min_p", -1.0),
        ("repeat_penalty", 0.0), ("repeat_last_n", -2), ("typical_p", 2.0), ("top_n_sigma", -2.0), ("mirostat", 3),
        ("xtc_probability", 1.5), ("dry_multiplier", -1.0), ("dry_penalty_last_n", -2), ("dynatemp_range", -1.0),
        ("adaptive_decay", 1.0), ("presence_penalty", -3.0), ("dry_sequence_breakers", [""]),
        ("samplers", [pb.SAMPLER_UNSPECIFIED]), ("samplers", [pb.SAMPLER_DRY, pb.SAMPLER_DRY]),
    ],
)  # fmt: skip
def test_values_out_of_bounds_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=field) as caught:
        check_bounds(pb.SamplingParams(**{field: value}))
    assert caught.value.param == field


def test_values_on_the_bounds_are_fine() -> None:
    check_bounds(pb.SamplingParams(adaptive_decay=0.99, repeat_penalty=0.001, temperature=0, top_n_sigma=-1))
