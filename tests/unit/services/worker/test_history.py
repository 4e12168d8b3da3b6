"""Past calls are rendered as the model wrote them: what a template makes of them is read back as the same calls."""

import json
from datetime import datetime
from typing import Any

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.chat_template import ChatTemplate
from services.worker.reasoning import pick_reasoning
from services.worker.tool_calls import pick_format
from tests.fakes.call_examples import LIST, READ, TOOLS
from tests.unit.services.worker.call_parsing import parse

BEGIN, END = "<begin>", "<end>"
CALLS = "{% for call in message.tool_calls %}{% set f = call.function %}"
# How templates of each family walk through past calls, in few words.
TEMPLATES = {
    "hermes": (
        CALLS + "<tool_call>\n"
        "{{ '{\"name\": \"' ~ f.name ~ '\", \"arguments\": ' ~ (f.arguments | tojson) ~ '}' }}"
        "\n</tool_call>\n{% endfor %}"
    ),
    "qwen-coder": (
        CALLS + "<tool_call>\n<function={{ f.name }}>\n{% for key, value in f.arguments|items %}"
        "<parameter={{ key }}>\n{{ value if value is string else value | tojson }}\n</parameter>\n{% endfor %}"
        "</function>\n</tool_call>\n{% endfor %}"
    ),
    "llama": (
        "<|python_tag|>" + CALLS + "{{ '{\"name\": \"' + f.name + '\", ' }}"
        "{{ '\"parameters\": ' }}{{ f.arguments | tojson }}{{ '}' }}{{ '; ' if not loop.last }}{% endfor %}"
    ),
    "mistral": (
        "[TOOL_CALLS]["
        + CALLS
        + "{% if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
        "{{ f | tojson }}{{ ', ' if not loop.last }}{% endfor %}]"
    ),
    "mistral-named": (
        CALLS + "{% if f.arguments is string %}{% set a = f.arguments %}{% else %}"
        "{% set a = f.arguments | tojson %}{% endif %}"
        "{{ '[TOOL_CALLS]' + f.name + '[ARGS]' + a }}{% endfor %}"
    ),
    "deepseek": (
        "{% if message['content'] is none %}<｜tool▁calls▁begin｜>{% for call in message['tool_calls'] %}"
        "{{ '<｜tool▁call▁begin｜>' + call['function']['name'] + '<｜tool▁sep｜>' + call['function']['arguments'] "
        "+ '<｜tool▁call▁end｜>' }}{% endfor %}<｜tool▁calls▁end｜>{% endif %}"
    ),
    "deepseek-r1": (
        "{% if message['content'] is none %}<｜tool▁calls▁begin｜>{% for call in message['tool_calls'] %}"
        "{{ '<｜tool▁call▁begin｜>' + call['type'] + '<｜tool▁sep｜>' + call['function']['name'] + '\\n```json\\n' + "
        "call['function']['arguments'] + '\\n```<｜tool▁call▁end｜>' }}{% endfor %}<｜tool▁calls▁end｜>{% endif %}"
    ),
    "glm": (
        CALLS + "<tool_call>{{ f.name }}\n{% for k, v in f.arguments.items() %}<arg_key>{{ k }}</arg_key>\n"
        "<arg_value>{{ v | tojson(ensure_ascii=False) if v is not string else v }}</arg_value>\n{% endfor %}"
        "</tool_call>\n{% endfor %}"
    ),
    "harmony": (
        CALLS + "{% if message.content and message.thinking %}{{ raise_exception('both') }}{% endif %}"
        "{{ '<|start|>assistant to=functions.' + f.name + '<|channel|>commentary json<|message|>' }}"
        "{{ f.arguments | tojson }}<|call|>{% endfor %}"
    ),
    "gemma4": (
        CALLS + "<|tool_call>call:{{ f.name }}{{ '{' }}{% for key, value in f.arguments | dictsort %}"
        "{{ ',' if not loop.first }}"
        "{{ key }}:{{ '<|\"|>' ~ value ~ '<|\"|>' if value is string else value | tojson }}{% endfor %}"
        "{{ '}' }}<tool_call|>{% endfor %}"
    ),
    "granite": "<|tool_call|>{{ message.tool_calls | map(attribute='function') | list | tojson }}",
    "kimi": (
        "<|tool_calls_section_begin|>" + CALLS + "<|tool_call_begin|>{{ call.id }}<|tool_call_argument_begin|>"
        "{% if f.arguments is string %}{{ f.arguments }}{% else %}{{ f.arguments | tojson }}{% endif %}"
        "<|tool_call_end|>{% endfor %}<|tool_calls_section_end|>"
    ),
    "minimax": (
        "<minimax:tool_call>\n" + CALLS + '<invoke name="{{ f.name }}">\n{% for k, v in f.arguments.items() %}'
        '<parameter name="{{ k }}">{{ v | tojson if v is not string else v }}</parameter>\n{% endfor %}</invoke>\n'
        "{% endfor %}</minimax:tool_call>"
    ),
}
WHOLE = (
    "{% for message in messages %}{% if message.role == 'assistant' and message.tool_calls %}" + BEGIN
    + "CALLS_HERE" + END + "{% elif message.role == 'tool' %}[{{ message.tool_call_id }}]{% else %}"
    "{{ message.content }}{% endif %}{% endfor %}"
)  # fmt: skip


def source(name: str) -> str:
    return WHOLE.replace("CALLS_HERE", TEMPLATES[name])


def rendered(template_source: str, *messages: pb.Message) -> str:
    template = ChatTemplate(
        template_source,
        bos_token="",
        eos_token="",
        special_tokens=["<|tool_call_begin|>"],
        history_id=pick_format(template_source).history_id,
    )
    return template.render(pb.ChatPrompt(messages=messages), now=datetime(2026, 11, 25)).text


def turn(*calls: tuple[str, Any], content: str = "", **fields: Any) -> pb.Message:
    return pb.Message(
        role=pb.ROLE_ASSISTANT,
        content=[pb.ContentPart(text=content)],
        tool_calls=[
            pb.ToolCall(id=f"call_{index}", name=name, arguments_json=json.dumps(arguments, separators=(",", ":")))
            for index, (name, arguments) in enumerate(calls)
        ],
        **fields,
    )


def result(call_id: str) -> pb.Message:
    return pb.Message(role=pb.ROLE_TOOL, content=[pb.ContentPart(text="ok")], tool_call_id=call_id)


NESTED = ("read", {"path": "a\n\"b\" 'c'", "tags": ["x", "ä"], "options": {"n": None}, "all": True})


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_calls_in_history_are_read_back_as_they_were(name: str) -> None:
    call_format = pick_format(source(name))
    assert call_format.name == name
    calls = [READ, LIST, NESTED]
    text = rendered(source(name), turn(*calls), result("call_0"))
    written = text.partition(BEGIN)[2].partition(END)[0]
    parsed = parse(written, tools=TOOLS, call_format=call_format)
    assert (parsed.text, parsed.calls) == ("", calls)


def test_mistral_gets_ids_of_nine_characters_the_same_for_call_and_result() -> None:
    text = rendered(source("mistral-named"), turn(READ), result("call_0"))
    call_id = text.rpartition("[")[2].rstrip("]")
    assert len(call_id) == 9
    assert call_id.isalnum()
    assert rendered(source("mistral-named"), result("abcDEF123")) == "[abcDEF123]"


def test_kimi_gets_the_ids_that_it_counts_itself() -> None:
    text = rendered(source("kimi"), turn(READ), result("call_0"), turn(LIST, READ), result("call_1"))
    ids = ["functions.read:0", "functions.list_files:1", "functions.read:2"]
    assert [text.index(f"{call_id}<|") for call_id in ids] == sorted(text.index(f"{call_id}<|") for call_id in ids)
    assert text.endswith("[functions.read:2]")


def test_other_formats_keep_the_ids_of_the_client() -> None:
    assert rendered(source("hermes"), turn(READ), result("call_0")).endswith("[call_0]")


def test_content_is_none_only_where_the_template_asks_for_that() -> None:
    template = (
        "{% for message in messages %}{{ message.content }}|{% if message['content'] is none %}x{% endif %}{% endfor %}"
    )
    assert rendered(template, turn(READ)) == "None|x"
    assert rendered(template, turn(READ, content="a")) == "a|"
    assert rendered("{{ messages[0].content }}|", turn(READ)) == "|"
    assert rendered("{{ messages[0].content is not none }}", turn(READ)) == "True"


def test_reasoning_reaches_gpt_oss_by_the_name_that_its_template_reads() -> None:
    template = "{% for message in messages %}{{ message.thinking }}|{{ message.reasoning_content }}{% endfor %}"
    assert rendered(template, turn(READ, reasoning_content="hm")) == "hm|hm"
    assert rendered(template, turn(READ, content="I look.", reasoning_content="hm")) == "|hm"
    assert rendered(template, turn(content="Done.", reasoning_content="hm"), result("")) == "hm|hm|"


def test_reasoning_in_history_is_split_off_again() -> None:
    template = "{% for m in messages %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{{ m.content }}{% endfor %}"
    text = rendered(template, turn(content="yes", reasoning_content="hm"))
    reasoning = pick_reasoning(template, "")
    assert reasoning is not None
    pieces = reasoning.splitter().feed(text)
    assert [(piece.text, piece.is_reasoning) for piece in pieces] == [("hm", True), ("yes", False)]
