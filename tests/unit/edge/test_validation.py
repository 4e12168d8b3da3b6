from typing import Any

import pytest

from edge.validation import parse_chat_completion_request, unknown_fields
from services.shared.errors import InvalidRequest

USER = {"role": "user", "content": "hi"}
FUNCTION = {"type": "function", "function": {"name": "read"}}


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat_completion_request({"messages": [USER], **fields})
    assert caught.value.param.split("[")[0].split(".")[0] in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [USER, USER, {"role": "wizard", "content": "hi"}]}, "messages[2].role"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": [USER, "hi"]}, "messages[1]"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ({"model": 7}, "model"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ["a", 1]}, "stop[1]"),
        ({"seed": 1.5}, "seed"),
        ({"logprobs": 5}, "logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": [[5]]}, "logit_bias[0]"),
        ({"min_keep": -1}, "min_keep"),
        ({"typical_p": 1.5}, "typical_p"),
        ({"top_n_sigma": "a"}, "top_n_sigma"),
        ({"xtc_probability": 2}, "xtc_probability"),
        ({"xtc_threshold": -1}, "xtc_threshold"),
        ({"dry_multiplier": -1}, "dry_multiplier"),
        ({"dry_base": "x"}, "dry_base"),
        ({"dry_allowed_length": -1}, "dry_allowed_length"),
        ({"dry_penalty_last_n": -2}, "dry_penalty_last_n"),
        ({"dry_sequence_breakers": []}, "dry_sequence_breakers"),
        ({"dry_sequence_breakers": ["a", ""]}, "dry_sequence_breakers[1]"),
        ({"mirostat": 3}, "mirostat"),
        ({"mirostat_tau": -1}, "mirostat_tau"),
        ({"mirostat_eta": 2}, "mirostat_eta"),
        ({"dynatemp_range": -1}, "dynatemp_range"),
        ({"dynatemp_exponent": "x"}, "dynatemp_exponent"),
        ({"repeat_last_n": -2}, "repeat_last_n"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"adaptive_target": 2}, "adaptive_target"),
        ({"adaptive_decay": 1}, "adaptive_decay"),
        ({"samplers": ["top_k", "magic"]}, "samplers[1]"),
        ({"samplers": []}, "samplers"),
        ({"ignore_eos": "yes"}, "ignore_eos"),
        ({"json_schema": []}, "json_schema"),
        ({"guided_regex": 5}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
        ({"grammar": 1}, "grammar"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [FUNCTION, {"type": "function", "function": {}}]}, "tools[1].function.name"),
        ({"tools": [FUNCTION], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"reasoning_effort": 3}, "reasoning_effort"),
        ({"speculative": "lookup"}, "speculative"),
        ({"speculative": {"kind": "fast"}}, "speculative.kind"),
        ({"speculative": {"max_tokens": 0}}, "speculative.max_tokens"),
        ({"speculative": {"max_tokens": 65}}, "speculative.max_tokens"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "read"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"best_of": 2}, "best_of"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param


def test_legacy_functions_are_refused_with_the_remedy() -> None:
    assert "tools" in refusal(functions=[{"name": "read"}]).message


def test_null_is_as_good_as_absent() -> None:
    optional = ("model", "tools", "stop", "max_tokens", "temperature", "functions", "audio", "n", "response_format")
    parse_chat_completion_request({"messages": [USER], **dict.fromkeys(optional)})


def test_whole_numbers_are_fine_where_fractions_are() -> None:
    assert parse_chat_completion_request({"messages": [USER], "temperature": 1}).temperature == 1.0


def test_unknown_fields_are_ignored_and_named() -> None:
    body = {"messages": [USER], "store": True, "promptCacheKey": "ses_1", "wibble": {"a": 1}}
    assert parse_chat_completion_request(body).prompt_cache_key_camel == "ses_1"
    assert unknown_fields(body) == ["store", "wibble"]
