"""Where the parts of a prompt stand."""

from datetime import UTC, datetime

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.settings import ConfigurationError
from services.worker.chat_template import CHATML, ChatTemplate
from services.worker.prompt_layout import lay_out, template_of

_ENV = "<env>\n  Working directory: /srv/a\n</env>"
_HERMES = "<|im_start|> <tool_call>"


def _text(text: str) -> list[pb.ContentPart]:
    return [pb.ContentPart(text=text)]


def _chat(*, tools: bool = True) -> pb.ChatPrompt:
    return pb.ChatPrompt(
        messages=[
            pb.Message(role=pb.ROLE_SYSTEM, content=_text(f"Be brief.\n{_ENV}\nSkills: none.")),
            pb.Message(role=pb.ROLE_USER, content=_text("List the files.")),
            pb.Message(
                role=pb.ROLE_ASSISTANT, tool_calls=[pb.ToolCall(id="1", name="ls", arguments_json='{"path":"."}')]
            ),
            pb.Message(role=pb.ROLE_TOOL, content=_text("a.py"), tool_call_id="1"),
            pb.Message(role=pb.ROLE_TOOL, content=_text("b.py"), tool_call_id="2"),
            pb.Message(role=pb.ROLE_ASSISTANT, content=_text("Two.")),
        ],
        tools=[pb.Tool(name="ls", parameters_json='{"type":"object"}')] if tools else [],
    )


def _rendered(layout: str, chat: pb.ChatPrompt) -> str:
    source = template_of(layout, _HERMES)  # type: ignore[arg-type]
    template = ChatTemplate(source, bos_token="", eos_token="", special_tokens=())
    chat.messages.append(pb.Message(role=pb.ROLE_USER, content=_text("Thanks.")))
    return template.render(chat, now=datetime.now(UTC)).text


def test_tools_first_puts_the_tools_before_the_system_text() -> None:
    assert _rendered("tools_first", _chat()) == (
        "<|im_start|>system\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "ls", "parameters": {"type": "object"}}}\n</tools>\n\n'
        "For each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>\n\n'
        f"Be brief.\n{_ENV}\nSkills: none.<|im_end|>\n"
        "<|im_start|>user\nList the files.<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "ls", "arguments": {"path": "."}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\na.py\n</tool_response>\n<tool_response>\nb.py\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nTwo.<|im_end|>\n"
        "<|im_start|>user\nThanks.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_tools_first_without_tools_has_only_the_system_text() -> None:
    assert _rendered("tools_first", _chat(tools=False)).startswith(f"<|im_start|>system\nBe brief.\n{_ENV}\nSkills:")


def test_the_restated_form_reminds_of_the_call_form_at_the_end_of_the_system_text() -> None:
    system = _rendered("tools_first_restated", _chat()).split("<|im_end|>")[0]
    assert system.endswith("<tool_call></tool_call> XML tags.")
    assert "can be answered without a function" in system.split(_ENV)[1]


def test_tools_first_refuses_a_model_of_another_form() -> None:
    with pytest.raises(ConfigurationError, match="tools_first"):
        template_of("tools_first", CHATML)


def test_other_layouts_keep_the_model_s_template() -> None:
    assert template_of("environment_in_user", CHATML) == CHATML


def test_the_environment_moves_into_the_first_user_message() -> None:
    chat = lay_out(_chat(), "environment_in_user")
    assert chat.messages[0].content[0].text == "Be brief.\n(stated below)\nSkills: none."
    assert [part.text for part in chat.messages[1].content] == [_ENV, "List the files."]


def test_the_environment_moves_into_a_message_of_its_own() -> None:
    chat = lay_out(_chat(), "environment_message")
    assert (chat.messages[1].role, chat.messages[1].content[0].text) == (pb.ROLE_SYSTEM, _ENV)


def test_without_tools_or_environment_nothing_moves() -> None:
    chat = _chat(tools=False)
    assert lay_out(chat, "environment_in_user") is chat
    assert lay_out(_chat(), "template") == _chat()
