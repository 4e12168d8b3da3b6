import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.worker.answer import Answer
from services.worker.reasoning import HarmonyReasoning
from services.worker.tool_calls import CallArguments, CallEnd, CallStart, Format, Text, pick_format
from tests.fakes.call_examples import (
    EXAMPLES,
    HARMONY_READ,
    IDS,
    KIMI_READ,
    LIST,
    READ,
    TEMPLATES,
    TOOLS,
    Example,
    format_of,
    qwen,
)
from tests.unit.services.worker.call_parsing import Result, parse


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
        "qwen-coder": qwen(f"<function=read>\n<parameter={key}>\n{written}\n</parameter>\n</function>"),
        "minimax": f'<invoke name="read">\n<parameter name="{key}">{written}</parameter>\n</invoke>',
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
        "<tool_call>", "</tool_call>", "<function=read>", "<function=", "<parameter=path>", "<parameter=",
        "</parameter>",
        "</function>", '<invoke name="read">', '<parameter name="limit">', "</invoke>", "<minimax:tool_call>",
        "</minimax:tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "[TOOL_CALLS]", "[ARGS]",
        "[CALL_ID]", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
        "functions.read:0",
        "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|channel|>", "<|message|>",
        "<|call|>", "<|end|>", "<|start|>", "commentary to=functions.read", "<|python_tag|>", "<|tool_call>call:read",
        '<|"|>', "<tool_call|>", "```tool_code\n", "```json\n", "```", "[read(", "read", "path=", "(", ")", "[", "]",
        "{",
        "}", '"', "'", ":", ",", "=", "\n", " ", "5", "true", "a < b", "\\", "é🚀", "`", "<",
    ]
)  # fmt: skip


@pytest.mark.parametrize("name", list(TEMPLATES))
@settings(max_examples=40, deadline=None)
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
@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_arbitrary_text_is_never_lost(name: str, written: str) -> None:
    result = parse(written, size=3, tools=TOOLS, call_format=format_of(name))
    assert result.text == written or result.names


@pytest.mark.parametrize("name", ["qwen-coder", "minimax", "glm"])
@settings(max_examples=40, deadline=None)
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
@settings(max_examples=40, deadline=None)
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


def test_code_in_a_tool_block_that_calls_no_tool_is_text() -> None:
    for written in ("```tool_code\nx(y.z(path=1))\n```", "```tool_code\nf(1, 2)\n```", "<|python_tag|>sum(xs)"):
        result = at_every_cut(written, format_of("llama"))
        assert (result.text, result.names) == (written, [])
    unknown = at_every_cut("```tool_code\nmake(path='x')\nrun()\n```", format_of("gemma"))
    assert unknown.calls == [("make", {"path": "x"}), ("run", {})]


def test_a_python_call_whose_arguments_are_lost_is_never_whole() -> None:
    result = at_every_cut("```tool_code\nread(open(x))\n```", format_of("gemma"))
    assert result.names == ["read"]
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(result.arguments[0])


def test_a_call_is_complete_with_its_end_mark() -> None:
    parser = format_of("kimi").parser(TOOLS)
    parser.feed(KIMI_READ[:-1])
    assert parser.feed(KIMI_READ[-1]) == [CallEnd(0)]


def test_text_behind_arguments_that_only_begins_like_an_end_mark_is_text() -> None:
    result = at_every_cut(KIMI_READ.replace("<|tool_call_end|>", "<|tool_box"), format_of("kimi"))
    assert (result.text, result.calls) == ("<|tool_box", [READ])
