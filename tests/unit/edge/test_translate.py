from typing import Any

import pytest
from starlette.datastructures import Headers

from edge.translate import to_generate_requests, to_request_context
from edge.validation import parse_chat_completion_request
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest

USER = {"role": "user", "content": "hi"}


def translate_all(**fields: Any) -> list[pb.GenerateRequest]:
    chat = parse_chat_completion_request({"messages": [USER], **fields})
    return to_generate_requests(chat, request_id="req_1", context=pb.RequestContext(session_id="ses_1"))


def translate(**fields: Any) -> pb.GenerateRequest:
    return translate_all(**fields)[0]


def refused_param(**fields: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        translate(**fields)
    return caught.value.param


def tool(name: str, **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def test_a_bare_request_leaves_all_to_the_defaults() -> None:
    request = translate()
    assert (request.request_id, request.model, request.context.session_id) == ("req_1", "", "ses_1")
    assert not request.HasField("max_tokens")
    assert not request.HasField("top_logprobs")
    assert not request.HasField("response_format")
    assert request.sampling == pb.SamplingParams()
    assert not request.chat.HasField("tool_choice")
    assert request.context.request_class == pb.REQUEST_CLASS_UNSPECIFIED


def test_every_sampling_parameter_arrives() -> None:
    values = {"temperature": 0.5, "top_p": 0.75, "top_k": 40, "min_p": 0.25, "seed": 7}
    penalties = {"frequency_penalty": 0.5, "presence_penalty": -0.5, "repeat_penalty": 1.25}
    sampling = translate(**values, **penalties, logit_bias={"15": -100, "3": 2.5}).sampling
    assert sampling == pb.SamplingParams(**values, **penalties, logit_bias={15: -100.0, 3: 2.5})


def test_every_sampler_of_llama_cpp_arrives_by_its_usual_name() -> None:
    values: dict[str, Any] = {
        "typical_p": 0.5, "top_n_sigma": 1.5, "xtc_probability": 0.5, "xtc_threshold": 0.25, "dry_multiplier": 0.75,
        "dry_base": 1.5, "dry_allowed_length": 3, "dry_penalty_last_n": -1, "dry_sequence_breakers": ["\n"],
        "mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.25, "dynatemp_range": 0.5, "dynatemp_exponent": 2.0,
        "repeat_last_n": 32, "adaptive_target": 0.5, "adaptive_decay": 0.75, "min_keep": 2, "ignore_eos": True,
    }  # fmt: skip
    sampling = translate(**values, repetition_penalty=1.25, samplers=["dry", "typ_p", "temperature", "infill"]).sampling
    order = [pb.SAMPLER_DRY, pb.SAMPLER_TYPICAL_P, pb.SAMPLER_TEMPERATURE, pb.SAMPLER_INFILL]
    assert sampling == pb.SamplingParams(**values, repeat_penalty=1.25, samplers=order)


def test_biases_are_understood_in_llama_servers_form() -> None:
    sampling = translate(logit_bias=[[15, -1.5], [3, False], [" world", 2]]).sampling
    assert dict(sampling.logit_bias) == {15: -1.5, 3: float("-inf")}
    assert list(sampling.text_bias) == [pb.TextBias(text=" world", bias=2)]


@pytest.mark.parametrize(
    ("pair", "param"),
    [([True, 1], "logit_bias[0][0]"), ([-1, 1], "logit_bias[0][0]"), ([5, "x"], "logit_bias[0][1]"),
     ([5, True], "logit_bias[0][1]"), ([5, 101], "logit_bias[0][1]")],
)  # fmt: skip
def test_a_wrong_pair_of_a_bias_is_named(pair: list[Any], param: str) -> None:
    assert refused_param(logit_bias=[pair]) == param


def test_zero_temperature_is_set_not_absent() -> None:
    assert translate(temperature=0).sampling.HasField("temperature")


def test_a_seed_of_minus_one_is_no_seed() -> None:
    assert not translate(seed=-1).sampling.HasField("seed")


@pytest.mark.parametrize("seed", [2**63, -5, 2**32 - 1])
def test_any_seed_becomes_one_that_is_not_random(seed: int) -> None:
    assert 0 <= translate(seed=seed).sampling.seed < 2**32 - 1


def test_choices_differ_by_seed_and_request_id() -> None:
    requests = translate_all(n=3, seed=2**32 - 3)
    assert [request.sampling.seed for request in requests] == [2**32 - 3, 2**32 - 2, 0]
    assert [request.request_id for request in requests] == ["req_1", "req_1-1", "req_1-2"]


def test_choices_without_a_seed_get_none() -> None:
    assert not any(request.sampling.HasField("seed") for request in translate_all(n=2))


def test_a_negative_top_k_keeps_all() -> None:
    assert translate(top_k=-1).sampling.top_k == 0


@pytest.mark.parametrize("token", ["x", "-1", "9" * 5000, "\N{FULLWIDTH DIGIT ONE}"])
def test_logit_bias_of_something_else_than_a_token_is_refused(token: str) -> None:
    assert refused_param(logit_bias={token: 1.0}) == "logit_bias"


def test_max_completion_tokens_wins() -> None:
    assert translate(max_tokens=5, max_completion_tokens=9).max_tokens == 9


def test_a_huge_max_tokens_is_clamped() -> None:
    assert translate(max_tokens=2**40).max_tokens == 2**31 - 1


@pytest.mark.parametrize(("stop", "expected"), [("\n", ["\n"]), (["a", "", "b"], ["a", "b"]), (None, []), ("", [])])
def test_stop_is_a_text_or_a_list(stop: Any, expected: list[str]) -> None:
    assert list(translate(stop=stop).stop) == expected


def test_logprobs_without_alternatives_is_zero_alternatives() -> None:
    request = translate(logprobs=True)
    assert request.HasField("top_logprobs")
    assert request.top_logprobs == 0


def test_top_logprobs_arrive() -> None:
    assert translate(logprobs=True, top_logprobs=5).top_logprobs == 5


def test_top_logprobs_need_logprobs() -> None:
    assert refused_param(top_logprobs=2) == "top_logprobs"


def test_tool_schemas_keep_the_order_of_their_keys() -> None:
    parameters = {"type": "object", "$schema": "x", "properties": {"zebra": {"minimum": -9007199254740991}, "ant": {}}}
    request = translate(tools=[tool("read", description="Reads.", parameters=parameters, strict=True), tool("list")])
    assert request.chat.tools[0].parameters_json == (
        '{"type":"object","$schema":"x","properties":{"zebra":{"minimum":-9007199254740991},"ant":{}}}'
    )
    assert request.chat.tools[0].strict
    assert request.chat.tools[1] == pb.Tool(name="list")


@pytest.mark.parametrize(
    ("choice", "mode"),
    [
        ("auto", pb.TOOL_CHOICE_MODE_AUTO),
        ("none", pb.TOOL_CHOICE_MODE_NONE),
        ("required", pb.TOOL_CHOICE_MODE_REQUIRED),
    ],
)
def test_tool_choice_arrives(choice: str, mode: pb.ToolChoiceMode) -> None:
    assert translate(tools=[tool("read")], tool_choice=choice).chat.tool_choice == pb.ToolChoice(mode=mode)


def test_a_named_tool_arrives() -> None:
    choice = {"type": "function", "function": {"name": "read"}}
    expected = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NAMED, name="read")
    assert translate(tools=[tool("read")], tool_choice=choice).chat.tool_choice == expected


def test_a_named_tool_must_be_offered() -> None:
    choice = {"type": "function", "function": {"name": "fly"}}
    assert refused_param(tools=[tool("read")], tool_choice=choice) == "tool_choice.function.name"


def test_required_needs_tools() -> None:
    assert refused_param(tool_choice="required") == "tool_choice"


def test_parallel_tool_calls_has_three_states() -> None:
    assert not translate().chat.HasField("parallel_tool_calls")
    assert translate(parallel_tool_calls=False).chat.HasField("parallel_tool_calls")
    assert translate(parallel_tool_calls=True).chat.parallel_tool_calls


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": {"type": "json_object"}}, pb.ResponseFormat(json_object=True)),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}},
            pb.ResponseFormat(json_schema='{"type":"array"}'),
        ),
        (
            {"response_format": {"type": "json_object", "schema": {"type": "array"}}},
            pb.ResponseFormat(json_schema='{"type":"array"}'),
        ),
        ({"grammar": 'root ::= "yes"'}, pb.ResponseFormat(grammar='root ::= "yes"')),
        ({"guided_grammar": 'root ::= "yes"'}, pb.ResponseFormat(grammar='root ::= "yes"')),
        ({"json_schema": {"type": "array"}}, pb.ResponseFormat(json_schema='{"type":"array"}')),
        ({"guided_json": {"type": "array"}}, pb.ResponseFormat(json_schema='{"type":"array"}')),
        ({"guided_regex": "a+"}, pb.ResponseFormat(regex="a+")),
        ({"response_format": {"type": "regex", "pattern": "a+"}}, pb.ResponseFormat(regex="a+")),
        ({"guided_choice": ["yes", 'a"b']}, pb.ResponseFormat(grammar='root ::= "yes" | "a\\U00000022b"')),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": True}}},
            pb.ResponseFormat(json_schema="{}", strict=True),
        ),
    ],
)
def test_response_formats_arrive(fields: dict[str, Any], expected: pb.ResponseFormat) -> None:
    assert translate(**fields).response_format == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"kind": "lookup", "max_tokens": 4}, pb.Speculation(kind=pb.SPECULATION_KIND_LOOKUP, max_tokens=4)),
        ({"kind": "none"}, pb.Speculation(kind=pb.SPECULATION_KIND_NONE)),
        ({"kind": "draft"}, pb.Speculation(kind=pb.SPECULATION_KIND_DRAFT)),
        ({"kind": "auto"}, pb.Speculation(kind=pb.SPECULATION_KIND_AUTO)),
        ({"max_tokens": 2}, pb.Speculation(max_tokens=2)),
    ],
)
def test_how_to_guess_arrives(fields: dict[str, Any], expected: pb.Speculation) -> None:
    assert translate(speculative=fields).speculation == expected
    assert not translate().HasField("speculation")


def test_text_is_no_format() -> None:
    assert not translate(response_format={"type": "text"}).HasField("response_format")


def test_a_schema_format_needs_its_schema() -> None:
    assert refused_param(response_format={"type": "json_schema"}) == "response_format.json_schema"


def test_a_regex_format_needs_its_pattern() -> None:
    assert refused_param(response_format={"type": "regex"}) == "response_format.pattern"


def test_grammar_and_format_exclude_each_other() -> None:
    assert refused_param(json_schema={}, guided_regex="a") == "guided_regex"
    assert refused_param(grammar="root ::= [a-z]", response_format={"type": "json_object"}) == "grammar"


def test_template_variables_and_effort_arrive() -> None:
    chat = translate(chat_template_kwargs={"enable_thinking": False}, reasoning_effort="low").chat
    assert (chat.template_kwargs_json, chat.reasoning_effort) == ('{"enable_thinking":false}', "low")


@pytest.mark.parametrize(
    ("headers", "fields", "session_id"),
    [
        ({"x-session-id": "a", "session-id": "b"}, {"prompt_cache_key": "c"}, "a"),
        ({"session-id": "b"}, {"prompt_cache_key": "c"}, "c"),
        ({"session-id": "b"}, {"promptCacheKey": "d"}, "d"),
        ({"session-id": "b", "x-claude-code-session-id": "e"}, {}, "b"),
        ({"x-claude-code-session-id": "e"}, {}, "e"),
        ({"x-claude-code-session-id": "e", "x-claude-code-agent-id": "f"}, {}, "f"),
        ({"thread-id": "g", "session-id": "b"}, {"prompt_cache_key": "b"}, "g"),
        ({}, {}, ""),
    ],
)
def test_the_session_is_found_in_order(headers: dict[str, str], fields: dict[str, str], session_id: str) -> None:
    chat = parse_chat_completion_request({"messages": [USER], **fields})
    assert to_request_context(Headers(headers), chat).session_id == session_id


def test_parent_and_program_are_known() -> None:
    headers = Headers({"x-parent-session-id": "ses_0", "user-agent": "opencode/1"})
    context = to_request_context(headers, parse_chat_completion_request({"messages": [USER]}))
    assert (context.parent_session_id, context.user_agent) == ("ses_0", "opencode/1")
