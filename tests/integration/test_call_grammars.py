"""llama.cpp takes the grammars of calls, and they allow what each format's models write."""

import ctypes
import json
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest
from services.worker.llama import LlamaModel, initialise
from services.worker.reasoning import HarmonyReasoning, ReasoningFormat
from services.worker.tool_calls import Format
from services.worker.tool_calls.gbnf import text_without
from services.worker.tool_calls.grammar import call_grammar, first_call_grammar, offered_call_grammar
from tests.fakes.call_examples import EXAMPLES, IDS, TOOLS, Example, format_of

pytestmark = pytest.mark.integration
REQUIRED = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED)
# Formats whose grammar writes a call otherwise than their first example does.
FORCED = {
    "mistral": '[TOOL_CALLS][{"name": "read", "arguments": {"path": "a.py"}}]',
    "harmony": '<|channel|>commentary to=functions.read <|constrain|>json<|message|>{"path": "a.py"}',
    "gemma": '{"name": "read", "parameters": {"path": "a.py"}}',
    "gemma4": '<|tool_call>{"name": "read", "arguments": {"path": "a.py"}}<tool_call|>',
    "generic": '<tool_call>\n{"name": "read", "arguments": {"path": "a.py"}}\n</tool_call>',
}


@pytest.fixture(scope="module")
def model(scripted_chat_model: Path) -> Iterator[LlamaModel]:
    initialise()
    model = LlamaModel(scripted_chat_model, gpu_layers=0, mmap=True, mlock=False)
    yield model
    model.close()


def accepted(model: LlamaModel, grammar: str, text: str) -> str:
    """The part of a text that a grammar allows, with `<end>` if the answer may end behind it."""
    sampler = llama_cpp.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
    assert sampler, grammar
    allowed = b""
    for token in model.tokenize(text, add_special=False, parse_special=False):
        if not allows(sampler, token):
            break
        llama_cpp.llama_sampler_accept(sampler, token)
        allowed += model.piece(token)
    end = "<end>" if allows(sampler, min(model.end_tokens)) else ""
    llama_cpp.llama_sampler_free(sampler)
    return allowed.decode(errors="replace") + end


def allows(sampler: object, token: int) -> bool:
    single = np.array([(token, 1.0, 0.0)], [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
    data = ctypes.cast(single.ctypes.data, llama_cpp.llama_token_data_p)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(llama_cpp.llama_token_data_array(data, 1, -1, False)))
    return bool(single["logit"][0] > -np.inf)


def forced(call_format: Format, *, parallel: bool = True, reasoning: object = None) -> str:
    return call_grammar(call_format, TOOLS, REQUIRED, parallel=parallel, reasoning=reasoning)  # type: ignore[arg-type]


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_a_call_that_must_be_made_is_written_in_the_models_own_form(model: LlamaModel, example: Example) -> None:
    written = FORCED.get(example.format, example.one)
    grammar = forced(format_of(example.format))
    assert accepted(model, grammar, written) == written + "<end>"
    assert "<end>" not in accepted(model, grammar, written.replace("read", "rm"))
    assert accepted(model, grammar, "Sure") == ""


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_behind_a_first_call_that_must_be_made_anything_may_follow(model: LlamaModel, example: Example) -> None:
    call = FORCED.get(example.format, example.one)
    grammar = first_call_grammar(format_of(example.format), TOOLS, reasoning=None)
    for written in (call, call + "\nand more", call + call):
        assert accepted(model, grammar, written) == written + "<end>"
    assert "<end>" not in accepted(model, grammar, call.replace("read", "rm"))
    assert accepted(model, grammar, "Sure") == ""


@pytest.mark.parametrize(
    "name", ["hermes", "qwen-coder", "minimax", "deepseek", "kimi", "granite", "mistral-named", "glm"]
)
def test_several_calls_may_follow_each_other_only_if_they_may_be_parallel(model: LlamaModel, name: str) -> None:
    example = next(example for example in EXAMPLES if example.format == name)
    written = example.two.replace("list_files<arg_key>", "list_files\n<arg_key>")
    if name == "glm":
        written = example.one + "\n" + example.one
    assert accepted(model, forced(format_of(name)), written) == written + "<end>"
    assert accepted(model, forced(format_of(name), parallel=False), written) != written + "<end>"


@pytest.mark.parametrize(
    ("name", "before", "opening", "call"),
    [
        ("hermes", "<tool_call>\n", "", '{"name": "read", "arguments": {"path": "a.py"}}'),
        ("llama", "", "", '{"name": "read", "parameters": {"path": "a.py"}}'),
        (
            "kimi",
            "",
            "<|tool_call_begin|>",
            'functions.read:0<|tool_call_argument_begin|>{"path": "a.py"}<|tool_call_end|>',
        ),
        ("kimi", "```json\n", "", '{"name": "read", "arguments": {"path": "a.py"}}'),
        ("deepseek", "", "<｜tool▁call▁begin｜>", 'read<｜tool▁sep｜>{"path": "a.py"}<｜tool▁call▁end｜>'),
        ("mistral-named", "", "[TOOL_CALLS]", 'read[ARGS]{"path": "a.py"}'),
        ("harmony", "", "<|channel|>commentary to=", 'functions.read <|constrain|>json<|message|>{"path": "a.py"}'),
        ("qwen-coder", "<tool_call>\n", "<function=", "read>\n<parameter=path>\na.py\n</parameter>\n</function>"),
        (
            "minimax",
            "<minimax:tool_call>\n",
            '<invoke name="',
            'read">\n<parameter name="path">a.py</parameter>\n</invoke>',
        ),
        ("glm", "", "<tool_call>", "read\n<arg_key>path</arg_key>\n<arg_value>a.py</arg_value>\n</tool_call>"),
    ],
)
def test_a_begun_call_is_held_to_the_offered_tools(
    model: LlamaModel, name: str, before: str, opening: str, call: str
) -> None:
    parser = format_of(name).parser(TOOLS)
    parser.feed(before + opening)
    assert parser.opening == opening
    grammar = offered_call_grammar(format_of(name), TOOLS)
    written = f"{opening}{call}\nand more"
    assert accepted(model, grammar, written) == written + "<end>"
    assert len(accepted(model, grammar, written.replace("read", "rm"))) < len(opening + call)


def test_parameters_that_are_required_or_limited_are_written_so(model: LlamaModel) -> None:
    schema = {
        "type": "object",
        "properties": {"mode": {"type": "string", "enum": ["fast", "slow"]}, "count": {"type": "integer"}},
        "required": ["mode"],
    }
    tools = [pb.Tool(name="run", parameters_json=json.dumps(schema))]
    grammar = call_grammar(format_of("qwen-coder"), tools, REQUIRED, parallel=False, reasoning=None)
    begin = "<tool_call>\n<function=run>\n"
    mode, count = "<parameter=mode>\nslow\n</parameter>\n", "<parameter=count>\n5\n</parameter>\n"
    end = "</function>\n</tool_call>"
    for body in (mode, mode + count):
        assert accepted(model, grammar, begin + body + end) == begin + body + end + "<end>"
    for body in ("", count, mode.replace("slow", "other"), mode + count.replace("5", "five")):
        assert "<end>" not in accepted(model, grammar, begin + body + end)


@pytest.mark.parametrize(
    ("reasoning", "thought"),
    [
        (None, ""),
        (ReasoningFormat(starts_open=True), "I </should> think.\n</think>\n\n"),
        (ReasoningFormat(), "<think>\nhm\n</think>\n\n"),
        (ReasoningFormat(), ""),
        (ReasoningFormat(is_off=True), ""),
    ],
)
def test_a_forced_call_may_follow_reasoning(model: LlamaModel, reasoning: object, thought: str) -> None:
    grammar = forced(format_of("hermes"), reasoning=reasoning)
    written = thought + EXAMPLES[0].one
    assert accepted(model, grammar, written) == written + "<end>"


def test_reasoning_that_is_switched_off_does_not_precede_a_forced_call(model: LlamaModel) -> None:
    grammar = forced(format_of("hermes"), reasoning=ReasoningFormat(is_off=True))
    assert "<end>" not in accepted(model, grammar, f"<think>hm</think>{EXAMPLES[0].one}")


def test_reasoning_that_the_prompt_began_must_end_before_the_call(model: LlamaModel) -> None:
    grammar = forced(format_of("hermes"), reasoning=ReasoningFormat(starts_open=True))
    assert "<end>" not in accepted(model, grammar, EXAMPLES[0].one)


def test_a_forced_call_of_harmony_may_follow_its_analysis(model: LlamaModel) -> None:
    grammar = forced(format_of("harmony"), reasoning=HarmonyReasoning())
    written = f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{FORCED['harmony']}"
    assert accepted(model, grammar, written) == written + "<end>"


@pytest.mark.parametrize("text", ["", "a", "</", "</think", "</thin</think", "\n<</t"])
def test_text_without_another_is_any_other_text(model: LlamaModel, text: str) -> None:
    grammar = "root ::= text\n" + text_without("text", "</think>")
    assert accepted(model, grammar, text) == text + "<end>"
    assert accepted(model, grammar, f"{text}</think>") == f"{text}</think<end>"


def test_a_schema_that_has_no_grammar_leaves_any_object(model: LlamaModel) -> None:
    tools = [pb.Tool(name="read", parameters_json='{"type": "nonsense"}'), pb.Tool(name="cut", parameters_json="{")]
    for name in IDS:
        grammar = call_grammar(format_of(name), tools, REQUIRED, parallel=True, reasoning=None)
        accepted(model, grammar, "")
        accepted(model, offered_call_grammar(format_of(name), tools), "")


def test_a_named_choice_must_be_offered() -> None:
    choice = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NAMED, name="rm")
    with pytest.raises(InvalidRequest, match="rm"):
        call_grammar(format_of("hermes"), TOOLS, choice, parallel=True, reasoning=None)
    with pytest.raises(InvalidRequest, match="empty"):
        call_grammar(format_of("hermes"), [], REQUIRED, parallel=True, reasoning=None)


def test_control_tokens_are_shown_only_if_asked_for(model: LlamaModel) -> None:
    start, end = (
        model.tokenize(text, add_special=False, parse_special=True)[0] for text in ("<|im_start|>", "<|im_end|>")
    )
    assert model.piece(start) == b""
    model.show({"<|im_start|>"})
    assert (model.piece(start), model.piece(end)) == (b"<|im_start|>", b"")
