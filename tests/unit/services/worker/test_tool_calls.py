import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.tool_calls import GENERIC, CallArguments, CallEnd, CallStart, Text, pick_format
from tests.unit.services.worker.call_parsing import BASH, BASH_CALL, PARAMETERS, READ, READ_CALL, TOOLS, parse

CALLS = {
    "native": (f"<tool_call>\n{READ}\n</tool_call>", "", [READ_CALL]),
    "native, several": (f"<tool_call>\n{READ}\n</tool_call>\n<tool_call>\n{BASH}\n</tool_call>", "",
                        [READ_CALL, BASH_CALL]),
    "native, several in one tag": (f"<tool_call>\n{READ}\n{BASH}\n</tool_call>", "", [READ_CALL, BASH_CALL]),
    "native, unknown name": ('<tool_call>{"name": "git", "arguments": {"x": 1}}</tool_call>', "", [("git", {"x": 1})]),
    "native, no arguments": ('<tool_call>\n{"name": "read"}\n</tool_call>', "", [("read", {})]),
    "native, null arguments": ('<tool_call>{"name": "read", "arguments": null}</tool_call>', "", [("read", {})]),
    "native, flat arguments": ('<tool_call>{"name": "read", "filePath": "a.py"}</tool_call>', "", [READ_CALL]),
    "native, closing tag forgotten": (f"<tool_call>\n{READ}", "", [READ_CALL]),
    "native, opening tag forgotten": (f"{READ}\n</tool_call>", "", [READ_CALL]),
    "text before": (f"I'll look.\n\n<tool_call>\n{READ}\n</tool_call>", "I'll look.", [READ_CALL]),
    "text after": (f"<tool_call>\n{READ}\n</tool_call>\nDone.", "Done.", [READ_CALL]),
    "text around": (f"Look:\n```json\n{READ}\n```\nDone.", "Look:\n\nDone.", [READ_CALL]),
    "fence": (f"```json\n{READ}\n```", "", [READ_CALL]),
    "fence without language": (f"```\n{READ}\n```\n", "", [READ_CALL]),
    "fence with another language": (f"```tool_call\n{READ}\n```", "", [READ_CALL]),
    "fence on one line": (f"```json {READ} ```", "", [READ_CALL]),
    "fence in the middle of a line": (f"Look: ```json\n{READ}\n```", "Look:", [READ_CALL]),
    "backticks in the middle of a line": (f"No ```fence\nx\n{READ}", "No ```fence\nx", [READ_CALL]),
    "fence, indented": (f"1. Look\n   ```json\n   {READ}\n   ```", "1. Look", [READ_CALL]),
    "fence around a tag": (f"```xml\n<tool_call>\n{READ}\n</tool_call>\n```", "", [READ_CALL]),
    "tag around a fence": (f"<tool_call>\n```json\n{READ}\n```\n</tool_call>", "", [READ_CALL]),
    "fence, pretty-printed": (f"```json\n{json.dumps(json.loads(READ), indent=2)}\n```", "", [READ_CALL]),
    "fence, several objects": (f"```json\n{READ}\n{BASH}\n```", "", [READ_CALL, BASH_CALL]),
    "fence, array": (f"```json\n[\n  {READ},\n  {BASH}\n]\n```", "", [READ_CALL, BASH_CALL]),
    "several fences": (f"```json\n{READ}\n```\n\n```json\n{BASH}\n```", "", [READ_CALL, BASH_CALL]),
    "several fences, not closed": (f"```json\n{READ}\n```json\n{BASH}\n```", "", [READ_CALL, BASH_CALL]),
    "fence not closed": (f"```json\n{READ}", "", [READ_CALL]),
    "bare": (READ, "", [READ_CALL]),
    "bare, on a later line": (f"Reading.\n{READ}", "Reading.", [READ_CALL]),
    "bare, several": (f"{READ}\n{BASH}", "", [READ_CALL, BASH_CALL]),
    "bare, array": (f"[{READ}, {BASH}]", "", [READ_CALL, BASH_CALL]),
    "tools tag": (f"<tools>\n{READ}\n</tools>", "", [READ_CALL]),
    "function_call tag": (f"<function_call>{READ}</function_call>", "", [READ_CALL]),
    "tag with bars": (f"<|tool_call|>{READ}<|/tool_call|>", "", [READ_CALL]),
    "bracketed tag": (f"[TOOL_CALLS] [{READ}]", "", [READ_CALL]),
    "other keys": ('{"tool": "read", "args": {"filePath": "a.py"}}', "", [READ_CALL]),
    "parameters": ('```json\n{"name": "read", "parameters": {"filePath": "a.py"}}\n```', "", [READ_CALL]),
    "input": ('{"type": "tool_use", "id": "x", "name": "read", "input": {"filePath": "a.py"}}', "", [READ_CALL]),
    "OpenAI's form": (f'{{"type": "function", "function": {READ}}}', "", [READ_CALL]),
    "OpenAI's form, string": (
        json.dumps({"function": {"name": "read", "arguments": '{"filePath": "a.py"}'}}), "", [READ_CALL]
    ),
    "arguments as a string": (
        json.dumps({"name": "bash", "arguments": json.dumps({"command": 'echo "ä\n🚀"'})}),
        "", [("bash", {"command": 'echo "ä\n🚀"'})],
    ),
    "arguments first": ('{"arguments": {"filePath": "a.py"}, "name": "read"}', "", [READ_CALL]),
    "thought first": ('{"thought": "hm", "name": "read", "arguments": {"filePath": "a.py"}}', "", [READ_CALL]),
    "unknown name, fenced": ('```json\n{"name": "git", "arguments": {"a": 1}}\n```', "", [("git", {"a": 1})]),
    "emoji": ('{"name": "bash", "arguments": {"command": "echo 🚀é"}}', "", [("bash", {"command": "echo 🚀é"})]),
    "raw newline": ('{"name": "bash", "arguments": {"command": "a\nb"}}', "", [("bash", {"command": "a\nb"})]),
    "Python literals": ("```json\n{'name': 'bash', 'arguments': {'x': True, 'y': None,}}\n```", "",
                        [("bash", {"x": True, "y": None})]),
    "brace forgotten": ('```json\n{"name": "bash", "arguments": {"command": "ls"}\n```', "", [BASH_CALL]),
    "braces forgotten": ('<tool_call>\n{"name": "bash", "arguments": {"command": "ls"\n</tool_call>', "", [BASH_CALL]),
    "one brace too many": (f"<tool_call>\n{BASH}}}\n</tool_call>", "", [BASH_CALL]),
    "cut": ('{"name": "bash", "arguments": {"command": "ls', "", [BASH_CALL]),
    "made-up response": (f"<tool_call>{READ}</tool_call><tool_response>x</tool_response>",
                         "<tool_response>x</tool_response>", [READ_CALL]),
    "after a code block": (f"```sh\nls {{\n{{}}\n```\n```json\n{READ}\n```", "```sh\nls {\n{}\n```", [READ_CALL]),
}  # fmt: skip


@pytest.mark.parametrize(("written", "text", "calls"), CALLS.values(), ids=CALLS.keys())
def test_calls_are_found_at_any_cut(written: str, text: str, calls: list[Any]) -> None:
    whole = parse(written)
    assert (whole.text, whole.calls) == (text, calls)
    for size in (1, 2, 3, 5, 8):
        assert parse(written, size=size) == whole


TEXTS = {
    "code block": 'See:\n\n```python\nprint({"name": "read"})\n{"name": "read", "arguments": {}}\n```\nDone.\n',
    "JSON of something else": '```json\n{\n  "name": "my-app",\n  "version": "1.0"\n}\n```\n',
    "bare JSON of something else": '{"name": "my-app", "version": "1.0", "scripts": {"test": "x"}}',
    "package named like a tool": '```json\n{\n  "name": "read",\n  "version": "1.0",\n  "scripts": {}\n}\n```',
    "definition of a tool": '```json\n{"name": "read", "parameters": {"type": "object", "properties": {}}}\n```',
    "definition of a tool in its tag": f'<tools>\n{{"type": "function", "function": {{"name": "read", '
    f'"description": "x", "parameters": {PARAMETERS}}}}}\n</tools>',
    "unknown name with other keys": '{"name": "jest", "arguments": {"a": 1}, "color": "red"}',
    "unknown name with a thought": '{"thought": "hm", "name": "jest", "arguments": {"a": 1}}',
    "unknown name with a common key": '{"name": "jest", "args": {"a": 1}}',
    "a person": '{"name": "John Smith", "arguments": {"a": 1}}',
    "name without arguments": '```json\n{"name": "read"}\n```',
    "arguments without a name": '{"arguments": {"a": 1}}',
    "within a sentence": f"Write `{READ}` or {READ} to call.",
    "tag without a call": "Use <tool_call> and </tool_call>, a < b, <b>bold</b>, ``` or [links](x).\n",
    "backticks in a sentence": "Use ```x``` or ```\nlines\n``` or `x`.\n{}\n",
    "list": "[1] first\n[2] second\n- `x`\n",
    "set": '{"a", "b"}\n\nis a set.',
    "nested fences": '````md\n```json\n{"a": 1}\n```\n````\n',
    "call in nested fences": f'````md\n```json\n{{"a": 1}}\n```\n{READ}\n````\n',
    "indented code": f"Example:\n\n    {READ}\n",
    "white space": "  \n\n text  \n\n",
    "unfinished": "```json\n{",
    "only a fence": "```",
}


@pytest.mark.parametrize("written", TEXTS.values(), ids=TEXTS.keys())
def test_what_is_no_call_stays_text_byte_for_byte(written: str) -> None:
    for size in (None, 1, 2, 3, 5):
        result = parse(written, size=size)
        assert (result.text, result.names) == (written, [])


FRAGMENTS = st.sampled_from([
    READ, BASH, "<tool_call>", "</tool_call>", "<tools>", "</tools>", "```", "```json\n", "\n", "\n\n", " ", "text",
    "{", "}", "[", "]", ",", ":", '"', "'", '"name"', '"arguments"', '"read"', '"x"', '"function"', "null", "`", "<",
    "\\", "é",
])  # fmt: skip


@given(st.lists(FRAGMENTS, max_size=25).map("".join), st.integers(1, 9), st.booleans())
def test_any_text_at_any_cut_gives_the_same_result(written: str, size: int, ended_by_model: bool) -> None:
    whole = parse(written, ended_by_model=ended_by_model)
    assert parse(written, size=size, ended_by_model=ended_by_model) == whole
    assert parse(written, size=1, ended_by_model=ended_by_model) == whole
    if ended_by_model:
        assert whole.ended == list(range(len(whole.names)))
    if not whole.names:
        assert whole.text == written


@given(st.text(), st.text(min_size=1), st.sampled_from(["{}", "<tool_call>\n{}\n</tool_call>", "```json\n{}\n```"]))
def test_arguments_arrive_unchanged_in_meaning(value: str, key: str, form: str) -> None:
    call = json.dumps({"name": "bash", "arguments": {key: value, "z": [value]}}, ensure_ascii=False)
    written = form.replace("{}", call)
    if key in {"type", "properties", "$schema"}:
        return
    assert parse(written, size=3).calls == [("bash", {key: value, "z": [value]})]


def test_the_name_comes_before_the_arguments_are_known() -> None:
    native = GENERIC.parser(TOOLS)
    assert native.feed('<tool_call>\n{"name": "read",') == [CallStart(0, "read")]
    assert native.feed(' "arguments": {"filePath": "a') == [CallArguments(0, '{"filePath": "a')]
    assert native.feed('.py"}') == [CallArguments(0, '.py"}')]
    assert native.feed("}") == [CallEnd(0)]


def test_a_fenced_call_is_announced_with_the_first_of_its_arguments() -> None:
    fenced = GENERIC.parser(TOOLS)
    assert fenced.feed('```json\n{"name": "read", "arguments": {') == []
    assert fenced.feed('"filePath": "') == [CallStart(0, "read"), CallArguments(0, '{"filePath": "')]


def test_text_before_a_call_streams_at_once() -> None:
    parser = GENERIC.parser(TOOLS)
    assert parser.feed("I will") == [Text("I will")]
    assert parser.feed(" look. ") == [Text(" look.")]
    assert parser.feed("{then}") == [Text(" {then}")]


def test_order_of_text_and_calls_is_kept() -> None:
    assert parse(f"a\n```json\n{READ}\n```\nb\n{BASH}\nc").order == ["text", "read", "text", "bash", "text"]


def test_a_call_cut_by_a_limit_is_not_closed() -> None:
    result = parse('<tool_call>{"name": "bash", "arguments": {"command": "rm -r', ended_by_model=False)
    assert (result.names, result.arguments, result.ended) == (["bash"], ['{"command": "rm -r'], [])


def test_a_garbled_call_is_never_delivered_as_if_it_were_whole() -> None:
    written = '{"content": "log("x", "y")"}'
    (arguments,) = parse(f'<tool_call>{{"name": "write", "arguments": {written}}}</tool_call>').arguments
    with pytest.raises(ValueError, match="delimiter"):
        json.loads(arguments)
    unknown = f'{{"name": "create", "arguments": {written}}}'
    assert parse(unknown).text == unknown


def test_a_garbled_call_leaves_the_next_one_alone() -> None:
    result = parse(f'{{"name": "read", "arguments": {{"a": {{}} x}}}}\n{READ}')
    assert (result.names, json.loads(result.arguments[1])) == (["read", "read"], {"filePath": "a.py"})


def test_an_undecided_call_cut_by_a_limit_is_text() -> None:
    written = '```json\n{"name": "git", "arguments": {"a": '
    assert parse(written, ended_by_model=False).text == written


def test_what_is_held_back_is_bounded() -> None:
    parser = GENERIC.parser(TOOLS)
    written = '{"arguments": {"a": "' + "x" * 70_000
    assert [type(event) for event in parser.feed(written)] == [Text]
    for written in ("\n" * 3000, '{"name": "' + "x" * 300):
        assert GENERIC.parser(TOOLS).feed(written) != []


def test_endless_nesting_is_survived() -> None:
    assert parse('<tool_call>{"name": "bash", "arguments": ' + "[" * 3000).names == ["bash"]
    assert parse('{"function": ' * 500).text == '{"function": ' * 500


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Read", "read"),
        ("functions.read", "read"),
        ("default_api:Read", "read"),
        ("web-search", "web_search"),
        ("websearch", "web_search"),
        ("todo_write", "todowrite"),
        ("read_file", "read"),
        ("execute_command", "bash"),
        ("git", "git"),
        ("search", "search"),
    ],
)
def test_a_name_is_repaired_only_if_it_is_certain(written: str, meant: str) -> None:
    assert parse(f'<tool_call>{{"name": "{written}", "arguments": {{}}}}</tool_call>').names == [meant]


def test_an_ambiguous_name_is_left_as_written() -> None:
    tools = [pb.Tool(name="read_file"), pb.Tool(name="readFile")]
    assert parse('<tool_call>{"name": "READFILE", "arguments": {}}', tools=tools).names == ["READFILE"]


def test_a_parameter_called_type_is_no_definition() -> None:
    tools = [pb.Tool(name="ask", parameters_json='{"type": "object", "properties": {"type": {}}}')]
    assert parse('{"name": "ask", "arguments": {"type": "x"}}', tools=tools).calls == [("ask", {"type": "x"})]


@pytest.mark.parametrize(
    ("template", "name"),
    [("..<tool_call>..", "hermes"), ("..<|python_tag|>..", "llama"), ("..[TOOL_CALLS]..", "mistral"), ("", "generic")],
)
def test_the_format_is_picked_by_the_template(template: str, name: str) -> None:
    assert pick_format(template).name == name


def test_every_format_reads_fenced_calls() -> None:
    assert parse(f"```json\n{READ}\n```", call_format=pick_format("<tool_call>")).calls == [READ_CALL]
