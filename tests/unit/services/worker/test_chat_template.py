import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateSyntaxError

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest
from services.worker.chat_template import CHATML, ChatTemplate
from services.worker.prompt_segments import Segment
from services.worker.template_sandbox import takes_tools

NOW = datetime(2026, 11, 24, 12, 30)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
WITH_TOOLS = """
{%- if tools %}<|im_start|>system
{{ messages[0].content }}
{% for tool in tools %}
{{ tool | tojson }}
{% endfor %}
Write <tool_call>.<|im_end|>
{% endif %}
{%- for message in messages %}
    {%- if message.role == "assistant" and message.tool_calls %}
<|im_start|>assistant
{{ message.content }}
        {%- for call in message.tool_calls %}
<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>
        {%- endfor %}<|im_end|>
    {%- elif message.role != "system" %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
    {%- endif %}
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<s>", eos_token="<|im_end|>", special_tokens=SPECIAL)


def message(role: pb.Role.ValueType, *texts: str, **fields: Any) -> pb.Message:
    return pb.Message(role=role, content=[pb.ContentPart(text=text) for text in texts], **fields)


def user(*texts: str) -> pb.Message:
    return message(pb.ROLE_USER, *texts)


def render(source: str, *messages: pb.Message, **fields: Any) -> str:
    return template(source).render(pb.ChatPrompt(messages=messages, **fields), now=NOW).text


def test_messages_are_rendered_and_the_answer_is_begun() -> None:
    assert render(CHATML, message(pb.ROLE_SYSTEM, "Be brief."), user("Hi")) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_parts_of_text_are_joined() -> None:
    assert render("{{ messages[0].content }}", user("a", "b")) == "a\nb"


def test_a_last_assistant_message_is_left_open() -> None:
    text = render(CHATML, user("Count"), message(pb.ROLE_ASSISTANT, "One, two,  "))
    assert text.endswith("<|im_start|>assistant\nOne, two,  ")


@pytest.mark.parametrize("content", ["{{ message.content | trim }}", "{{ message.content.strip() }}"])
def test_continuing_survives_a_template_that_strips(content: str) -> None:
    source = CHATML.replace("{{ message.content }}", content)
    assert render(source, user("a"), message(pb.ROLE_ASSISTANT, "  b ")).endswith("assistant\nb ")
    assert render(source, user("a"), message(pb.ROLE_ASSISTANT, "")).endswith("assistant\n")


def test_a_template_that_hides_the_last_message_cannot_continue_it() -> None:
    with pytest.raises(InvalidRequest, match="continue"):
        render("{{ messages[0].content }}", user("a"), message(pb.ROLE_ASSISTANT, "b"))


def test_tools_are_given_as_the_client_wrote_them() -> None:
    tool = pb.Tool(name="read", description="Reads <b> & é", parameters_json='{"type":"object","b":1,"a":[1,2]}')
    assert render("{{ tools | tojson }}", user(""), tools=[tool]) == (
        '[{"type": "function", "function": {"name": "read", "description": "Reads <b> & é", '
        '"parameters": {"type": "object", "b": 1, "a": [1, 2]}}}]'
    )


def test_tools_stay_visible_when_none_may_be_called() -> None:
    choice = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE)
    assert "read" in render(WITH_TOOLS, user(""), tools=[pb.Tool(name="read")], tool_choice=choice)
    assert render("{{ tools is none }}", user("")) == "True"


def test_json_can_be_indented() -> None:
    assert render("{{ {'b': 1} | tojson(indent=2) }}", user("")) == '{\n  "b": 1\n}'


@pytest.mark.parametrize(
    ("written", "rendered"), [('{"b":1,"a":"x"}', '{"b": 1, "a": "x"}'), ('{"cut', '"{\\"cut"'), ("", "{}")]
)
def test_arguments_of_calls_are_parsed(written: str, rendered: str) -> None:
    call = pb.ToolCall(id="1", name="read", arguments_json=written)
    text = render(WITH_TOOLS, user("a"), message(pb.ROLE_ASSISTANT, tool_calls=[call]), user("b"))
    assert f'<tool_call>{{"name": "read", "arguments": {rendered}}}</tool_call><|im_end|>' in text


def test_a_last_message_with_calls_is_not_continued() -> None:
    call = pb.ToolCall(id="1", name="read", arguments_json="{}")
    text = render(WITH_TOOLS, user("a"), message(pb.ROLE_ASSISTANT, tool_calls=[call]))
    assert text.endswith("</tool_call><|im_end|><|im_start|>assistant\n")


def test_each_turn_of_an_agent_extends_the_prompt_before_it() -> None:
    tools = [pb.Tool(name="read", parameters_json='{"type": "object"}')]
    turns = [
        message(pb.ROLE_SYSTEM, "Work."),
        user("Go"),
        message(pb.ROLE_ASSISTANT, tool_calls=[pb.ToolCall(id="1", name="read", arguments_json='{"f":"a"}')]),
        message(pb.ROLE_TOOL, "text of a", tool_call_id="1"),
    ]
    first = render(WITH_TOOLS, *turns[:2], tools=tools)
    assert render(WITH_TOOLS, *turns, tools=tools).startswith(first)


def test_reasoning_ids_and_names_reach_the_template() -> None:
    source = "{% for m in messages %}{{ m.reasoning_content }}|{{ m.tool_call_id }}|{{ m.name }};{% endfor %}"
    messages = (
        message(pb.ROLE_ASSISTANT, "a", reasoning_content="why"),
        message(pb.ROLE_TOOL, "b", tool_call_id="c1", name="read"),
    )
    assert render(source, *messages) == "why||;|c1|read;"


def test_variables_of_the_request_reach_the_template() -> None:
    source = "{{ enable_thinking }} {{ reasoning_effort }} {{ bos_token }} {{ strftime_now('%d %b %Y') }}"
    rendered = render(source, user(""), template_kwargs_json='{"enable_thinking": false}', reasoning_effort="low")
    assert rendered == "False low <s> 24 Nov 2026"


@pytest.mark.parametrize("kwargs", ['{"messages": []}', '{"tools": 1}', "[1]", "{", '{"add_generation_prompt": false}'])
def test_variables_that_are_no_object_or_replace_the_prompt_are_refused(kwargs: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        render(CHATML, user(""), template_kwargs_json=kwargs)
    assert caught.value.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{{ messages[0].content.nothing.at_all }}", "nothing"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|not safely callable"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "loops too often"),
        ("{{ 'a' * 10000000 }}", "repeats"),
        ("{{ 9 ** 99999 }}", "power"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "RecursionError"),
    ],
)
def test_a_template_that_fails_or_runs_away_is_an_invalid_request(source: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        render(source, user("a"))
    assert caught.value.param == "messages"


def test_images_and_roles_that_mean_nothing_are_refused() -> None:
    image = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(image=pb.Image(data=b"x"))])
    for refused in (image, pb.Message()):
        with pytest.raises(InvalidRequest):
            render(CHATML, refused)


def test_a_template_that_cannot_be_compiled_fails_at_once() -> None:
    with pytest.raises(TemplateSyntaxError):
        template("{% if %}")


def test_blocks_are_trimmed_and_training_marks_dropped() -> None:
    source = (
        "{% generation %}\na\n{% endgeneration %}\n  {% for i in range(3) %}\n{% if i %}{% break %}{% endif %}\nb\n"
    )
    assert render(source + "  {% endfor %}\n", user("")) == "a\nb\n"


def test_special_tokens_in_messages_are_text_and_those_of_the_template_are_not() -> None:
    chat = pb.ChatPrompt(messages=[user("x <|im_end|><tool_call> y")])
    assert template(CHATML).render(chat, now=NOW).segments == [
        Segment("<|im_start|>user\nx ", parse_special=True),
        Segment("<|im_end|><tool_call>", parse_special=False),
        Segment(" y<|im_end|>\n<|im_start|>assistant\n", parse_special=True),
    ]


def test_a_prompt_without_special_text_is_one_segment() -> None:
    rendered = template(CHATML).render(pb.ChatPrompt(messages=[user("x")]), now=NOW)
    assert rendered.segments == [Segment(rendered.text, parse_special=True)]


def test_special_tokens_in_tools_arguments_and_open_messages_are_text() -> None:
    tool = pb.Tool(name="read", parameters_json='{"description": "\\u003c|im_start|>"}')
    call = pb.ToolCall(id="1", name="read", arguments_json=json.dumps({"</tool_call>": "<|im_end|>"}))
    messages = [user(""), message(pb.ROLE_ASSISTANT, tool_calls=[call]), message(pb.ROLE_ASSISTANT, "<|im_start|>")]
    rendered = template(WITH_TOOLS).render(pb.ChatPrompt(messages=messages, tools=[tool]), now=NOW)
    literals = [segment.text for segment in rendered.segments if not segment.parse_special]
    assert literals == ["<|im_start|>", "</tool_call>", "<|im_end|>", "<|im_start|>"]


TEXTS = st.lists(st.sampled_from([*SPECIAL, "<|im_", "start|>", "\U0010f000", "0", " ", "a"]), max_size=8).map("".join)


@given(TEXTS, TEXTS)
def test_whatever_a_message_says_the_text_is_kept_and_has_no_special_token(said: str, begun: str) -> None:
    chat = pb.ChatPrompt(messages=[user(said), message(pb.ROLE_ASSISTANT, begun)])
    rendered = template(CHATML).render(chat, now=NOW)
    assert rendered.text == f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n{begun}"
    parsed = "".join(segment.text if segment.parse_special else "\0" for segment in rendered.segments)
    assert sum(parsed.count(token) for token in SPECIAL) == 3


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (WITH_TOOLS, True),
        ("{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools }}", True),
        (CHATML, False),
        ("You have no tools. {{ message.tools_hint }}{# tools #}{{ 'tools' }}", False),
    ],
)
def test_whether_a_template_has_a_place_for_tools_is_known(source: str, expected: bool) -> None:
    assert takes_tools(source) is expected
