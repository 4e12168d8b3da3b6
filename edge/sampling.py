"""Translates how tokens are chosen, and what shape an answer must have, to the contract. Pure."""

import math
from collections.abc import Sequence
from typing import Any, Final

import orjson

from edge.openai import ChatCompletionRequest, ResponseFormat, SamplingFields
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest

SEED_COUNT: Final = 2**32 - 1  # llama.cpp reads the highest 32-bit seed as "random"
_MAX_BIAS: Final = 100
_SAME_NAME: Final = (
    "temperature", "top_p", "min_p", "min_keep", "frequency_penalty", "presence_penalty", "repeat_last_n", "typical_p",
    "top_n_sigma", "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base", "dry_allowed_length",
    "dry_penalty_last_n", "dry_sequence_breakers", "mirostat", "mirostat_tau", "mirostat_eta", "dynatemp_range",
    "dynatemp_exponent", "adaptive_target", "adaptive_decay", "ignore_eos",
)  # fmt: skip
_SAMPLERS: Final = {
    "penalties": pb.SAMPLER_PENALTIES,
    "dry": pb.SAMPLER_DRY,
    "top_n_sigma": pb.SAMPLER_TOP_N_SIGMA,
    "top_k": pb.SAMPLER_TOP_K,
    "typ_p": pb.SAMPLER_TYPICAL_P,
    "typical_p": pb.SAMPLER_TYPICAL_P,
    "top_p": pb.SAMPLER_TOP_P,
    "min_p": pb.SAMPLER_MIN_P,
    "xtc": pb.SAMPLER_XTC,
    "temperature": pb.SAMPLER_TEMPERATURE,
    "infill": pb.SAMPLER_INFILL,
    "adaptive_p": pb.SAMPLER_ADAPTIVE_P,
}


def to_sampling(asked: SamplingFields) -> pb.SamplingParams:
    """Translates the sampling fields."""
    token_biases, text_biases = _to_biases(asked.logit_bias or {})
    repeat_penalty = asked.repeat_penalty if asked.repeat_penalty is not None else asked.repetition_penalty
    return pb.SamplingParams(
        **{name: getattr(asked, name) for name in _SAME_NAME},
        top_k=None if asked.top_k is None else max(asked.top_k, 0),
        seed=None if asked.seed in (None, -1) else asked.seed % SEED_COUNT,
        repeat_penalty=repeat_penalty,
        logit_bias=token_biases,
        text_bias=text_biases,
        samplers=dict.fromkeys(_SAMPLERS[name] for name in asked.samplers or ()),
    )


def to_response_format(chat: ChatCompletionRequest) -> pb.ResponseFormat | None:
    """Translates the shape of the answer, whichever field asks for it; two that do are refused."""
    shapes = {
        name: shape
        for name, shape in (
            ("response_format", _to_shape(chat.response_format)),
            ("grammar", _to_grammar(chat.grammar)),
            ("json_schema", _to_schema(chat.json_schema)),
            ("guided_json", _to_schema(chat.guided_json)),
            ("guided_regex", _to_regex(chat.guided_regex)),
            ("guided_grammar", _to_grammar(chat.guided_grammar)),
            ("guided_choice", _to_choice(chat.guided_choice)),
        )
        if shape is not None
    }
    if len(shapes) > 1:
        *others, last = shapes
        raise InvalidRequest(f"'{last}' and '{others[0]}' exclude each other.", param=last)
    return next(iter(shapes.values()), None)


def compact(value: dict[str, Any] | None) -> str:
    """JSON without spaces, its keys in the client's order."""
    return "" if value is None else orjson.dumps(value).decode()


def _to_shape(wanted: ResponseFormat | None) -> pb.ResponseFormat | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return _to_schema(wanted.schema_) if wanted.schema_ else pb.ResponseFormat(json_object=True)
    if wanted.type == "regex":
        if wanted.pattern is None:
            param = "response_format.pattern"
            raise InvalidRequest(f"'{param}' is required.", param=param)
        return _to_regex(wanted.pattern)
    if wanted.json_schema is None:
        param = "response_format.json_schema"
        raise InvalidRequest(f"'{param}' is required.", param=param)
    return pb.ResponseFormat(json_schema=compact(wanted.json_schema.schema_), strict=bool(wanted.json_schema.strict))


def _to_schema(schema: dict[str, Any] | None) -> pb.ResponseFormat | None:
    return None if schema is None else pb.ResponseFormat(json_schema=compact(schema))


def _to_regex(pattern: str | None) -> pb.ResponseFormat | None:
    return None if pattern is None else pb.ResponseFormat(regex=pattern)


def _to_grammar(grammar: str | None) -> pb.ResponseFormat | None:
    return pb.ResponseFormat(grammar=grammar) if grammar else None


def _to_choice(texts: Sequence[str] | None) -> pb.ResponseFormat | None:
    return None if texts is None else pb.ResponseFormat(grammar="root ::= " + " | ".join(map(_literal, texts)))


def _literal(text: str) -> str:
    return '"' + "".join(character if _is_plain(character) else f"\\U{ord(character):08X}" for character in text) + '"'


def _is_plain(character: str) -> bool:
    return character.isprintable() and character not in '"\\'


def _to_biases(biases: dict[str, float] | list[list[Any]]) -> tuple[dict[int, float], list[pb.TextBias]]:
    """Biases of tokens and of texts, in OpenAI's form (a map) or llama-server's (pairs)."""
    if isinstance(biases, dict):
        return {_token(token): bias for token, bias in biases.items()}, []
    tokens: dict[int, float] = {}
    texts: list[pb.TextBias] = []
    for index, (target, bias) in enumerate(biases):
        value = _bias(bias, f"logit_bias[{index}][1]")
        if isinstance(target, str):
            texts.append(pb.TextBias(text=target, bias=value))
        elif isinstance(target, int) and not isinstance(target, bool) and 0 <= target <= 2**31 - 1:
            tokens[target] = value
        else:
            param = f"logit_bias[{index}][0]"
            raise InvalidRequest(f"Invalid value for '{param}': must be a token id or a text.", param=param)
    return tokens, texts


def _token(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidRequest(f"Invalid key '{text[:40]}' in 'logit_bias': must be a token id.", param="logit_bias")
    return int(text)


def _bias(bias: Any, param: str) -> float:
    if bias is False:
        return -math.inf
    if isinstance(bias, str | bool) or abs(bias) > _MAX_BIAS:
        message = f"Invalid value for '{param}': must be a number from -{_MAX_BIAS} to {_MAX_BIAS}, or false."
        raise InvalidRequest(message, param=param)
    return float(bias)
