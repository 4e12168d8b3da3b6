import math
from collections.abc import Iterable
from typing import Any, cast

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest
from services.worker.chat_template import CHATML
from services.worker.prompts import Preparer
from services.worker.sampling_options import DEFAULT_SAMPLERS, SamplingOptions
from services.worker.settings import WorkerSettings


class LetterModel:
    """Its tokens are the letters of a text."""

    vocab_size = 256
    bos_text = eos_text = ""
    special_tokens: Iterable[str] = frozenset()
    adds_bos = False
    end_tokens = frozenset({0, 1})
    forks_at_any_token = True

    def show(self, texts: Iterable[str]) -> None:
        pass

    @staticmethod
    def tokenize(text: str, **_: Any) -> list[int]:
        return list(text.encode())


def options_of(asked: pb.SamplingParams, **settings: Any) -> SamplingOptions:
    preparer = Preparer(cast("Any", LetterModel()), CHATML, WorkerSettings(**settings), context_length=1000)
    return preparer.prepare(pb.GenerateRequest(text="hi", sampling=asked)).options


def test_what_is_not_asked_comes_from_the_settings_or_is_off() -> None:
    options = options_of(pb.SamplingParams(), temperature=0.25, top_k=7, repeat_penalty=1.5)
    assert (options.temperature, options.top_k, options.repeat_penalty) == (0.25, 7, 1.5)
    assert (options.typical_p, options.mirostat, options.samplers) == (1.0, 0, DEFAULT_SAMPLERS)
    assert options.seed is not None
    assert options.history_limit == 1000


def test_every_field_that_is_asked_reaches_the_samplers() -> None:
    values: dict[str, Any] = {
        "temperature": 0.5, "top_p": 0.75, "top_k": 3, "min_p": 0.25, "seed": 7, "frequency_penalty": 0.5,
        "presence_penalty": 0.25, "repeat_penalty": 1.25, "typical_p": 0.5, "top_n_sigma": 1.5, "xtc_probability": 0.5,
        "xtc_threshold": 0.25, "dry_multiplier": 0.5, "dry_base": 1.5, "dry_allowed_length": 3,
        "dry_penalty_last_n": 9, "mirostat": 1, "mirostat_tau": 2.0, "mirostat_eta": 0.5, "dynatemp_range": 0.25,
        "dynatemp_exponent": 2.0, "repeat_last_n": 5, "adaptive_target": 0.5, "adaptive_decay": 0.5, "min_keep": 2,
    }  # fmt: skip
    asked = pb.SamplingParams(**values, dry_sequence_breakers=["x"], samplers=[pb.SAMPLER_TOP_K])
    unset = {field.name for field in asked.DESCRIPTOR.fields} - {field.name for field, _ in asked.ListFields()}
    assert unset == {"logit_bias", "text_bias", "ignore_eos"}
    options = options_of(asked)
    assert {name: getattr(options, name) for name in values} == values
    assert (options.dry_sequence_breakers, options.samplers) == (("x",), (pb.SAMPLER_TOP_K,))


def test_zero_is_asked_not_absent() -> None:
    assert options_of(pb.SamplingParams(temperature=0, top_k=0)).temperature == 0


def test_biases_of_tokens_and_texts_add_up_and_the_end_can_be_forbidden() -> None:
    asked = pb.SamplingParams(logit_bias={97: 1.0}, text_bias=[pb.TextBias(text="ab", bias=2.0)], ignore_eos=True)
    assert options_of(asked).logit_bias == {97: 3.0, 98: 2.0, 0: -math.inf, 1: -math.inf}


@pytest.mark.parametrize("bias", [math.nan, math.inf])
def test_a_bias_that_is_no_number_is_refused(bias: float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        options_of(pb.SamplingParams(logit_bias={5: bias}))
    assert caught.value.param == "logit_bias"


def test_values_out_of_bounds_are_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        options_of(pb.SamplingParams(typical_p=5))
    assert caught.value.param == "typical_p"
