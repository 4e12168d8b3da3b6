import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.answer import Answer
from services.worker.reasoning import HarmonyReasoning
from services.worker.tool_calls import CallArguments, CallStart, Format, Text, pick_format
from tests.unit.services.worker.call_parsing import Result, parse

SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "limit": {"type": "integer"},
        "all": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "options": {"type": "object"},
        "note": {"type": ["string", "null"]},
        "mode": {"anyOf": [{"$ref": "#/$defs/mode"}, {"type": "null"}]},
    },
    "$defs": {"mode": {"enum": ["fast", "slow"]}},
}
TOOLS = [pb.Tool(name=name, parameters_json=json.dumps(SCHEMA)) for name in ("read", "list_files", "Task")]
READ = ("read", {"path": "a.py"})
LIST = ("list_files", {"path": "src", "limit": 5})

TEMPLATES = {
    "hermes": "<tool_call>",
    "qwen-coder": "<tool_call><function=",
    "llama": "<|python_tag|>",
    "mistral": "[TOOL_CALLS]",
    "mistral-named": "[TOOL_CALLS] [ARGS]",
    "deepseek": "<｜tool▁calls▁begin｜>",
    "deepseek-r1": "<｜tool▁calls▁begin｜> ```json",
    "glm": "<tool_call><arg_key>",
    "harmony": "<|channel|><|message|>",
    "gemma": "<start_of_turn>",
    "gemma4": "<|tool_call>call:",
    "granite": "<|tool_call|>",
    "kimi": "<|tool_calls_section_begin|>",
    "minimax": "<minimax:tool_call>",
    "generic": "",
}


@dataclass
class Example:
    format: str
    one: str
    two: str
    """Two calls, `READ` and `LIST`."""
    repaired: tuple[str, ...] = ()
    """Other ways to write `READ`, wrong but certain."""
    texts: tuple[str, ...] = ()
    """What looks like a call but is none."""


def qwen(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


QWEN_READ = "<function=read>\n<parameter=path>\na.py\n</parameter>\n</function>"
QWEN_LIST = (
    "<function=list_files>\n<parameter=path>\nsrc\n</parameter>\n<parameter=limit>\n5\n</parameter>\n</function>"
)
GLM_READ = "<tool_call>read\n<arg_key>path</arg_key>\n<arg_value>a.py</arg_value>\n</tool_call>"
GLM_LIST = (
    "<tool_call>list_files<arg_key>path</arg_key><arg_value>src</arg_value>"
    "<arg_key>limit</arg_key><arg_value>5</arg_value></tool_call>"
)
MM_READ = '<invoke name="read">\n<parameter name="path">a.py</parameter>\n</invoke>'
MM_LIST = '<invoke name="list_files">\n<parameter name="path">src</parameter>\n<parameter name="limit">5</parameter>\n</invoke>'
JSON_READ = '{"name": "read", "arguments": {"path": "a.py"}}'
JSON_LIST = '{"name": "list_files", "arguments": {"path": "src", "limit": 5}}'
LLAMA_READ = JSON_READ.replace("arguments", "parameters")
LLAMA_LIST = JSON_LIST.replace("arguments", "parameters")
PY_READ, PY_LIST = 'read(path="a.py")', "list_files(path='src', limit=5)"
DS_READ = '<｜tool▁call▁begin｜>read<｜tool▁sep｜>{"path": "a.py"}<｜tool▁call▁end｜>'
DS_LIST = '<｜tool▁call▁begin｜>list_files<｜tool▁sep｜>{"path": "src", "limit": 5}<｜tool▁call▁end｜>'
R1_READ = '<｜tool▁call▁begin｜>function<｜tool▁sep｜>read\n```json\n{"path": "a.py"}\n```<｜tool▁call▁end｜>'
R1_LIST = (
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>list_files\n```json\n"
    '{"path": "src", "limit": 5}\n```<｜tool▁call▁end｜>'
)
KIMI_READ = '<|tool_call_begin|>functions.read:0<|tool_call_argument_begin|>{"path": "a.py"}<|tool_call_end|>'
KIMI_LIST = (
    '<|tool_call_begin|>functions.list_files:1<|tool_call_argument_begin|>{"path": "src", "limit": 5}<|tool_call_end|>'
)
HARMONY_READ = '<|channel|>commentary to=functions.read <|constrain|>json<|message|>{"path": "a.py"}<|call|>'
HARMONY_LIST = (
    '<|start|>assistant to=functions.list_files<|channel|>commentary json<|message|>{"path": "src", "limit": 5}<|call|>'
)
G4_READ = '<|tool_call>call:read{path:<|"|>a.py<|"|>}<tool_call|>'
G4_LIST = '<|tool_call>call:list_files{limit:5,path:<|"|>src<|"|>}<tool_call|>'

EXAMPLES = [
    Example("hermes", f"<tool_call>\n{JSON_READ}\n</tool_call>",
            f"<tool_call>\n{JSON_READ}\n</tool_call>\n<tool_call>\n{JSON_LIST}\n</tool_call>",
            (f"<tool_call>\n{JSON_READ}", f"<tool_call>\n{JSON_READ[:-1]}\n</tool_call>",
             '<tool_call>\n{"name": "read", "arguments": {"path": "a.py",}}\n</tool_call>')),
    Example("qwen-coder", qwen(QWEN_READ), qwen(QWEN_READ, QWEN_LIST),
            (f"<tool_call>\n{QWEN_READ}", QWEN_READ, f"{QWEN_READ}\n</tool_call>",
             qwen(QWEN_READ.removesuffix("\n</function>")),
             QWEN_READ.removesuffix("\n</parameter>\n</function>"),
             QWEN_READ.removesuffix("</parameter>\n</function>") + "</param",
             qwen(QWEN_READ.replace("\n</parameter>", "")),
             "<tool_call>\n<function=read><parameter=path>a.py</parameter></function></tool_call>",
             f"<tool_call>\n{JSON_READ}\n</tool_call>"),
            ("Use <function=name> and <parameter=key> to call.", "<tool_call>\n<function=>x", "<tool_call>\n<function=read")),
    Example("minimax", f"<minimax:tool_call>\n{MM_READ}\n</minimax:tool_call>",
            f"<minimax:tool_call>\n{MM_READ}\n{MM_LIST}\n</minimax:tool_call>",
            (f"<minimax:tool_call>\n{MM_READ}", MM_READ, MM_READ.removesuffix("\n</invoke>"),
             f"<minimax:tool_call>{MM_READ.replace('</parameter>', '')}\n</minimax:tool_call>",
             MM_READ.replace('"', "'"), MM_READ.replace('"', "")),
            ('An <invoke name="x"> element.', "<minimax:tool_call>\nno call")),
    Example("glm", GLM_READ, f"{GLM_READ}\n{GLM_LIST}",
            (GLM_READ.replace("\n", ""), GLM_READ.removesuffix("\n</tool_call>"),
             GLM_READ.replace("</arg_value>", ""), GLM_READ.replace("\n<arg_value>", ""),
             GLM_READ.removesuffix("</arg_value>\n</tool_call>") + "</arg_v",
             f"<tool_call>\n{JSON_READ}\n</tool_call>"),
            ("Use <tool_call> and </tool_call>.", "<tool_call>unknown</tool_call>", "<tool_call>rea")),
    Example("llama", LLAMA_READ, f"{LLAMA_READ}; {LLAMA_LIST}",
            (f"<|python_tag|>{LLAMA_READ}", LLAMA_READ[:-1], f"<|python_tag|>[{LLAMA_READ}]",
             '{"type": "function", "name": "read", "parameters": {"path": "a.py"}}',
             '<|python_tag|>read.call(path="a.py")', f"[{PY_READ}]", f"[{PY_READ}", '[read(path="a.py',
             '[read(path = """a.py""",)]'),
            ("[x] done\n[link](http://a)\n[f(a=1)]", "[read me]", "[read(2)]", "<|python_tag|>1 + 1", "[Todo(a=1)]")),
    Example("mistral", f"[TOOL_CALLS] [{JSON_READ}]", f"[TOOL_CALLS][{JSON_READ}, {JSON_LIST}]",
            (f"[TOOL_CALLS][{JSON_READ}", f"[TOOL_CALLS]{JSON_READ}", f"[{JSON_READ}]"),
            ("[TOOL", "See [TOOL_CALLS] and [1].")),
    Example("mistral-named", '[TOOL_CALLS]read[ARGS]{"path": "a.py"}',
            '[TOOL_CALLS]read[ARGS]{"path": "a.py"}[TOOL_CALLS]list_files[CALL_ID]a1b2c3d4e[ARGS]{"path": "src", "limit": 5}',
            ('[TOOL_CALLS]read[ARGS]{"path": "a.py"', '[TOOL_CALLS]read{"path": "a.py"}',
             "[TOOL_CALLS]read[ARGS]{'path': 'a.py',}", f"[TOOL_CALLS][{JSON_READ}]"),
            ("[TOOL_CALLS]read", "The mark [TOOL_CALLS] is not [ARGS].")),
    Example("deepseek", f"<｜tool▁calls▁begin｜>{DS_READ}<｜tool▁calls▁end｜>",
            f"<｜tool▁calls▁begin｜>{DS_READ}{DS_LIST}<｜tool▁calls▁end｜>",
            (f"<｜tool▁calls▁begin｜>{DS_READ}", DS_READ, DS_READ.removesuffix("<｜tool▁call▁end｜>"),
             DS_READ.removesuffix("}<｜tool▁call▁end｜>"), R1_READ),
            ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>read", "<｜tool▁call▁begin｜>no name<｜tool▁sep｜>{}")),
    Example("deepseek-r1", f"<｜tool▁calls▁begin｜>{R1_READ}<｜tool▁calls▁end｜>",
            f"<｜tool▁calls▁begin｜>{R1_READ}\n{R1_LIST}<｜tool▁calls▁end｜>",
            (R1_READ, R1_READ.removesuffix("<｜tool▁call▁end｜>"), R1_READ.partition("\n```<")[0],
             R1_READ.replace("```json\n", "").replace("\n```", ""), f"```json\n{JSON_READ}\n```")),
    Example("kimi", f"<|tool_calls_section_begin|>{KIMI_READ}<|tool_calls_section_end|>",
            f"<|tool_calls_section_begin|>{KIMI_READ}{KIMI_LIST}<|tool_calls_section_end|>",
            (KIMI_READ, KIMI_READ.removesuffix("<|tool_call_end|>"), KIMI_READ.removesuffix("}<|tool_call_end|>"),
             KIMI_READ.replace("functions.", ""), KIMI_READ.replace(":0<", " <"),
             KIMI_READ.replace('{"path": "a.py"}', json.dumps('{"path": "a.py"}'))),
            ("<|tool_calls_section_begin|>", "<|tool_call_begin|>functions.read:0")),
    Example("harmony", HARMONY_READ, f"{HARMONY_READ}{HARMONY_LIST}",
            (HARMONY_READ.removesuffix("<|call|>"), HARMONY_READ.replace("<|constrain|>", ""),
             HARMONY_READ.removesuffix("}<|call|>"), f"<|start|>assistant{HARMONY_READ}",
             HARMONY_READ.replace("commentary", "analysis")),
            ("<|channel|>commentary to=functions.read",)),
    Example("gemma", f"```tool_code\n{PY_READ}\n```", f"[{PY_READ}, {PY_LIST}]",
            (f"```tool_code\nprint({PY_READ})\n```", f"```tool_code\ndefault_api.{PY_READ}\n```", f"```tool_code\n{PY_READ}",
             LLAMA_READ, f"```json\n{LLAMA_READ}\n```", f"```tool_code\n[{PY_READ}]\n```", '```tool_code\nread("a.py")\n```'),
            ("```tool_code\nprint(1 + 1)\n```", f"```python\n{PY_READ}\n```", f"Call {PY_READ} now.")),
    Example("gemma4", G4_READ, f"{G4_READ}{G4_LIST}".replace("limit:5,path:", "limit:5,\npath: "),
            (G4_READ.removesuffix("<tool_call|>"), G4_READ.replace("}", ""), G4_READ.removesuffix('<|"|>}<tool_call|>'),
             G4_READ.replace('<|"|>', '"'), f"<|tool_call>{JSON_READ}<tool_call|>"),
            ("<|tool_call>read", "<|tool_call>call:{}")),
    Example("granite", f"<|tool_call|>[{JSON_READ}]", f"<|tool_call|>[{JSON_READ}, {JSON_LIST}]",
            (f"<tool_call>[{JSON_READ}]", f"<|tool_call|>{JSON_READ}", f"<|tool_call|>[{JSON_READ}")),
    Example("generic", JSON_READ, f"{JSON_READ}\n{JSON_LIST}", (
        DS_READ, R1_READ, KIMI_READ, MM_READ, qwen(QWEN_READ), f"[{PY_READ}]", f"[TOOL_CALLS] [{JSON_READ}]",
        f"<|tool_call|>[{JSON_READ}]", '[TOOL_CALLS]read[ARGS]{"path": "a.py"}')),
]  # fmt: skip
IDS = [example.format for example in EXAMPLES]


def format_of(name: str) -> Format:
    return pick_format(TEMPLATES[name])


def at_every_cut(written: str, call_format: Format) -> Result:
    """Parses a text whole, in two pieces at every position, and by characters; all must agree."""
    whole = parse(written, tools=TOOLS, call_format=call_format)
    assert parse(written, size=1, tools=TOOLS, call_format=call_format) == whole
    for position in range(1, len(written)):
        assert parse_pieces([written[:position], written[position:]], call_format) == whole
    return whole


def parse_pieces(pieces: list[str], call_format: Format) -> Result:
    parser, result = call_format.parser(TOOLS), Result()
    for events in (*map(parser.feed, pieces), parser.finish(ended_by_model=True)):
        for event in events:
            result.add(event)
    return result


def same_arguments(calls: list[tuple[str, Any]], expected: list[tuple[str, Any]]) -> bool:
    return [(name, dict(sorted(arguments.items()))) for name, arguments in calls] == [
        (name, dict(sorted(arguments.items()))) for name, arguments in expected
    ]


def test_every_format_is_picked_by_its_template() -> None:
    assert {name: pick_format(template).name for name, template in TEMPLATES.items()} == {
        name: name for name in TEMPLATES
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_one_call_is_read_at_any_cut(example: Example) -> None:
    result = at_every_cut(example.one, format_of(example.format))
    assert (result.text, result.calls) == ("", [READ])


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_parallel_calls_are_read_at_any_cut(example: Example) -> None:
    result = at_every_cut(example.two, format_of(example.format))
    assert result.text == ""
    assert same_arguments(result.calls, [READ, LIST])


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_text_around_a_call_stays_in_its_place(example: Example) -> None:
    result = at_every_cut(f"I'll look.\n\n{example.one}\nDone, a < b [1].", format_of(example.format))
    assert (result.text.replace("\n", ""), result.calls) == ("I'll look.Done, a < b [1].", [READ])
    assert result.order == ["text", "read", "text"]


@pytest.mark.parametrize(
    ("name", "written"), [(example.format, text) for example in EXAMPLES for text in example.repaired]
)
def test_a_call_that_is_certain_is_repaired(name: str, written: str) -> None:
    result = at_every_cut(written, format_of(name))
    assert (result.text, result.calls) == ("", [READ])


@pytest.mark.parametrize(
    ("name", "written"), [(example.format, text) for example in EXAMPLES for text in example.texts]
)
def test_what_is_no_call_stays_text(name: str, written: str) -> None:
    result = at_every_cut(written, format_of(name))
    assert (result.text, result.names) == (written, [])


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_the_name_is_known_before_the_answer_ends(example: Example) -> None:
    parser = format_of(example.format).parser(TOOLS)
    started = [isinstance(event, CallStart) for char in example.one for event in parser.feed(char)]
    assert any(started)


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_a_call_cut_by_a_limit_is_left_open(example: Example) -> None:
    cut = example.one[: example.one.index("a.py") + 2]
    result = parse(cut, ended_by_model=False, tools=TOOLS, call_format=format_of(example.format))
    assert (result.names, result.ended) == (["read"], [])


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("path", "a.py", "a.py"),
        ("path", "5", "5"),
        ("path", '"a"', '"a"'),
        ("path", "", ""),
        ("path", "a\n\n  b \\n \"c\" 'd'", "a\n\n  b \\n \"c\" 'd'"),
        ("path", "if a < b:\n  print('</p>')", "if a < b:\n  print('</p>')"),
        ("path", "null", "null"),
        ("limit", "5", 5),
        ("limit", " 5 ", 5),
        ("limit", "many", "many"),
        ("all", "true", True),
        ("all", "True", True),
        ("all", "False", False),
        ("tags", '["a", "b"]', ["a", "b"]),
        ("tags", "['a', \"b\",]", ["a", "b"]),
        ("tags", "a, b", "a, b"),
        ("tags", '["a" x', '["a" x'),
        ("options", '{"a": {"b": null}}', {"a": {"b": None}}),
        ("options", "{'a': None, 'b': True}", {"a": None, "b": True}),
        ("options", "{" + '"a": 1, ' * 40 + '"b": 2}', {"a": 1, "b": 2}),
        ("note", "null", None),
        ("note", "nullable", "nullable"),
        ("note", "text", "text"),
        ("mode", "fast", "fast"),
        ("mode", "null", None),
        ("other", "7", 7),
        ("other", "word", "word"),
        ("other", "NaN", None),
    ],
)
@pytest.mark.parametrize("form", ["qwen-coder", "minimax", "glm"])
def test_values_of_markup_have_the_types_of_the_schema(form: str, key: str, written: str, value: Any) -> None:
    texts = {
        "qwen-coder": f"<tool_call>\n<function=read>\n<parameter={key}>\n{written}\n</parameter>\n</function>\n</tool_call>",
        "minimax": f'<minimax:tool_call>\n<invoke name="read">\n<parameter name="{key}">{written}</parameter>\n</invoke>',
        "glm": f"<tool_call>read\n<arg_key>{key}</arg_key>\n<arg_value>{written}</arg_value>\n</tool_call>",
    }
    assert at_every_cut(texts[form], format_of(form)).calls == [("read", {key: value})]


def test_a_closing_tag_within_a_value_is_part_of_it() -> None:
    code = "<parameter=x>\n1\n</parameter>\ntext </function> and </tool_call>"
    written = qwen(f"<function=read>\n<parameter=path>\n{code}\n</parameter>\n</function>")
    assert at_every_cut(written, format_of("qwen-coder")).calls == [("read", {"path": code})]


@pytest.mark.parametrize("form", ["qwen-coder", "minimax", "glm"])
def test_a_call_without_parameters_has_an_empty_object(form: str) -> None:
    texts = {
        "qwen-coder": qwen("<function=read>\n</function>"),
        "minimax": '<minimax:tool_call>\n<invoke name="read">\n</invoke>\n</minimax:tool_call>',
        "glm": "<tool_call>read</tool_call>",
    }
    assert at_every_cut(texts[form], format_of(form)).calls == [("read", {})]


def test_long_strings_stream_and_long_objects_show_that_they_go_on() -> None:
    parser = format_of("qwen-coder").parser(TOOLS)
    parser.feed("<tool_call>\n<function=read>\n<parameter=path>\n")
    assert parser.feed("x" * 100) == [CallArguments(0, '"' + "x" * 100)]
    parser = format_of("qwen-coder").parser(TOOLS)
    parser.feed("<tool_call>\n<function=read>\n<parameter=options>\n")
    assert parser.feed('{"a": "' + "x" * 100) == [CallArguments(0, " ")]


def test_what_follows_garbage_in_a_call_is_text() -> None:
    result = at_every_cut("<tool_call>\n<function=read>\nwhat now?\n</tool_call>", format_of("qwen-coder"))
    assert (result.text.strip(), result.calls) == ("what now?\n</tool_call>", [("read", {})])


def test_values_of_gemma4_nest() -> None:
    written = '<|tool_call>call:read{options:{a:[1,<|"|>x, "y" <z><|"|>,{b:true}],c:{}},path:<|"|><|"|>}<tool_call|>'
    expected = {"options": {"a": [1, 'x, "y" <z>', {"b": True}], "c": {}}, "path": ""}
    assert at_every_cut(written, format_of("gemma4")).calls == [("read", expected)]


def test_python_calls_take_literals_and_positions() -> None:
    written = "```tool_code\nread('a\\n\"b\"', -5, all=True, tags=['x', \"y\"], options={'a': None})\n```"
    expected = {"path": 'a\n"b"', "limit": -5, "all": True, "tags": ["x", "y"], "options": {"a": None}}
    assert at_every_cut(written, format_of("gemma")).calls == [("read", expected)]
    assert parse("[Task(limit=3)]", tools=TOOLS).calls == [("Task", {"limit": 3})]


MARKS = st.sampled_from(
    [part for example in EXAMPLES for part in (example.one, *example.repaired[:2])]
    + [
        "<tool_call>", "</tool_call>", "<function=read>", "<function=", "<parameter=path>", "<parameter=", "</parameter>",
        "</function>", '<invoke name="read">', '<parameter name="limit">', "</invoke>", "<minimax:tool_call>",
        "</minimax:tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "[TOOL_CALLS]", "[ARGS]",
        "[CALL_ID]", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "functions.read:0",
        "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|channel|>", "<|message|>",
        "<|call|>", "<|end|>", "<|start|>", "commentary to=functions.read", "<|python_tag|>", "<|tool_call>call:read",
        '<|"|>', "<tool_call|>", "```tool_code\n", "```json\n", "```", "[read(", "read", "path=", "(", ")", "[", "]", "{",
        "}", '"', "'", ":", ",", "=", "\n", " ", "5", "true", "a < b", "\\", "é🚀", "`", "<",
    ]
)  # fmt: skip


@pytest.mark.parametrize("name", list(TEMPLATES))
@given(st.lists(MARKS, max_size=14).map("".join), st.integers(1, 9), st.booleans())
def test_any_text_at_any_cut_gives_the_same_result(name: str, written: str, size: int, ended: bool) -> None:
    call_format = format_of(name)
    whole = parse(written, ended_by_model=ended, tools=TOOLS, call_format=call_format)
    assert parse(written, size=size, ended_by_model=ended, tools=TOOLS, call_format=call_format) == whole
    assert parse(written, size=1, ended_by_model=ended, tools=TOOLS, call_format=call_format) == whole
    assert is_subsequence(whole.text, written)
    if ended:
        assert whole.ended == list(range(len(whole.names)))
    if not whole.names:
        assert whole.text == written


@pytest.mark.parametrize("name", list(TEMPLATES))
@given(st.text(max_size=60))
def test_arbitrary_text_is_never_lost(name: str, written: str) -> None:
    result = parse(written, size=3, tools=TOOLS, call_format=format_of(name))
    assert result.text == written or result.names


@pytest.mark.parametrize("name", ["qwen-coder", "minimax", "glm"])
@given(st.lists(MARKS, max_size=10).map("".join))
def test_arguments_of_markup_always_end_valid(name: str, value: str) -> None:
    begin = {
        "qwen-coder": "<tool_call>\n<function=read>\n<parameter=options>\n",
        "minimax": '<minimax:tool_call>\n<invoke name="read">\n<parameter name="options">',
        "glm": "<tool_call>read\n<arg_key>options</arg_key>\n<arg_value>",
    }
    result = parse(begin[name] + value, tools=TOOLS, call_format=format_of(name))
    assert isinstance(json.loads(result.arguments[0]), dict)


@pytest.mark.parametrize("name", ["qwen-coder", "minimax", "glm"])
@given(st.text(st.characters(blacklist_characters="<\n", blacklist_categories=["Cs"])))
def test_strings_arrive_unchanged(name: str, value: str) -> None:
    begin = {
        "qwen-coder": "<tool_call>\n<function=read>\n<parameter=path>\n{}\n</parameter>\n</function>\n</tool_call>",
        "minimax": '<minimax:tool_call>\n<invoke name="read">\n<parameter name="path">{}</parameter>\n</invoke>',
        "glm": "<tool_call>read\n<arg_key>path</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>",
    }
    result = parse(begin[name].replace("{}", value), size=2, tools=TOOLS, call_format=format_of(name))
    assert result.calls == [("read", {"path": value})]


def is_subsequence(text: str, written: str) -> bool:
    characters = iter(written)
    return all(char in characters for char in text)


def test_harmony_is_split_into_reasoning_content_and_calls() -> None:
    written = (
        "<|channel|>analysis<|message|>Look first.<|end|><|start|>assistant<|channel|>commentary<|message|>I look."
        f"<|end|><|start|>assistant{HARMONY_READ}"
    )
    for size in (1, 2, 3, 7, 1000):
        answer = Answer(tools=TOOLS, reasoning=HarmonyReasoning(), call_format=format_of("harmony"))
        deltas = [
            delta
            for index, start in enumerate(range(0, len(written), size))
            for delta in answer.feed(index, written[start : start + size].encode())
        ]
        deltas += answer.finish(ended_by_model=True)
        calls = [delta.tool_call for delta in deltas if delta.WhichOneof("piece") == "tool_call"]
        assert "".join(delta.reasoning for delta in deltas) == "Look first."
        assert "".join(delta.content for delta in deltas) == "I look."
        assert "".join(call.name for call in calls) == "read"
        assert json.loads("".join(call.arguments for call in calls)) == {"path": "a.py"}


LONG_VALUES = {"path": "x" * 3000, "options": {"k": "y" * 3000}}
LONG_CALLS = {
    "hermes": f"<tool_call>\n{json.dumps({'name': 'read', 'arguments': LONG_VALUES})}\n</tool_call>",
    "qwen-coder": qwen(
        "<function=read>\n"
        + "\n".join(
            f"<parameter={key}>\n{value if isinstance(value, str) else json.dumps(value)}\n</parameter>"
            for key, value in LONG_VALUES.items()
        )
        + "\n</function>"
    ),
    "kimi": KIMI_READ.replace('{"path": "a.py"}', json.dumps(LONG_VALUES)),
    "harmony": HARMONY_READ.replace('{"path": "a.py"}', json.dumps(LONG_VALUES)),
    "gemma": f"[read(path={LONG_VALUES['path']!r}, options={LONG_VALUES['options']!r})]",
    "generic": f"```json\n{json.dumps({'name': 'read', 'arguments': LONG_VALUES})}\n```",
}


@pytest.mark.parametrize("name", list(LONG_CALLS))
def test_while_a_call_builds_the_client_is_never_left_waiting(name: str) -> None:
    answer = Answer(
        tools=TOOLS,
        reasoning=HarmonyReasoning() if name == "harmony" else None,
        call_format=format_of(name),
    )
    waited, longest = 0, 0
    for token, char in enumerate(LONG_CALLS[name]):
        waited = 0 if answer.feed(token, char.encode()) else waited + 1
        longest = max(longest, waited)
    answer.finish(ended_by_model=True)
    assert answer.has_tool_calls
    assert longest < 80


def test_text_before_a_marker_streams_at_once() -> None:
    parser = format_of("kimi").parser(TOOLS)
    assert parser.feed("I look <") == [Text("I look")]
    assert parser.feed("b.") == [Text(" <b.")]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("kimi", "<|tool_call_begin|>"),
        ("kimi", "<|tool_call_begin|>functions.re"),
        ("deepseek", "<｜tool▁call▁begin｜>"),
        ("deepseek-r1", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>re"),
        ("mistral-named", "[TOOL_CALLS]re"),
        ("qwen-coder", "<function=re"),
        ("minimax", '<invoke name="'),
        ("glm", "<tool_call>re"),
        ("harmony", "<|channel|>commentary to=functions.re"),
    ],
)
def test_the_place_where_a_name_must_follow_is_known(name: str, written: str) -> None:
    parser = format_of(name).parser(TOOLS)
    parser.feed("Well. " + written)
    assert parser.opening == written
    assert parser.is_in_call
