from collections.abc import AsyncGenerator
from typing import Any

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import Overloaded
from services.worker.tool_gate import Need, ask, call_beginnings, decided, gate_prompt, need_of

TOOL = pb.Tool(name="read", parameters_json="{}")


def said(role: "pb.Role.ValueType", *texts: str) -> pb.Message:
    return pb.Message(role=role, content=[pb.ContentPart(text=text) for text in texts])


def asked(*texts: str, **fields: Any) -> pb.GenerateRequest:
    messages = [said(pb.ROLE_SYSTEM, "You are an agent."), said(pb.ROLE_USER, *texts)]
    return pb.GenerateRequest(request_id="r", chat=pb.ChatPrompt(messages=messages, tools=[TOOL], **fields))


def alternatives(**logprobs: float) -> list[pb.TopLogprob]:
    return [pb.TopLogprob(token=token, logprob=logprob) for token, logprob in logprobs.items()]


def test_the_first_message_of_a_person_is_asked_about_alone_behind_examples() -> None:
    prompt = gate_prompt(asked("List the files."))
    assert prompt is not None
    assert prompt.messages[-1] == said(pb.ROLE_USER, "List the files.")
    assert {message.content[0].text for message in prompt.messages[2:-1:2]} == {"knowledge", "tools"}
    assert "You are an agent." not in str(prompt)
    assert not prompt.tools


def unasked() -> dict[str, pb.GenerateRequest]:
    requests = {
        name: asked("List the files.")
        for name in ("no tools", "a result", "behind a call", "resumed", "a form", "an image")
    }
    del requests["no tools"].chat.tools[:]
    requests["a result"].chat.messages.append(said(pb.ROLE_TOOL, "a.py"))
    requests["behind a call"].chat.messages.append(pb.Message(role=pb.ROLE_ASSISTANT))
    requests["behind a call"].chat.messages.append(said(pb.ROLE_USER, "Yes."))
    requests["resumed"].resume_tokens.append(5)
    requests["a form"].response_format.json_object = True
    requests["an image"].chat.messages[1].content.add().image.data = b"x"
    modes = {"none": pb.TOOL_CHOICE_MODE_NONE, "required": pb.TOOL_CHOICE_MODE_REQUIRED}
    choices = {name: asked("x", tool_choice=pb.ToolChoice(mode=mode)) for name, mode in modes.items()}
    choices["no messages"] = pb.GenerateRequest(chat=pb.ChatPrompt(tools=[TOOL]))
    return {**requests, **choices, "only a reminder": asked("<system-reminder>Be brief.</system-reminder>\n")}


@pytest.mark.parametrize("case", sorted(unasked()))
def test_nothing_is_asked_where_the_choice_is_made_or_depends_on_more_than_the_message(case: str) -> None:
    assert gate_prompt(unasked()[case]) is None


def test_a_later_message_is_shown_with_the_end_of_what_the_assistant_said() -> None:
    request = asked("Rename it.")
    request.chat.messages.append(said(pb.ROLE_ASSISTANT, "x" * 5000 + " Shall I run the tests?"))
    request.chat.messages.append(pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[pb.ToolCall(name="read")]))
    request.chat.messages.append(said(pb.ROLE_USER, "Yes."))
    prompt = gate_prompt(request)
    assert prompt is not None
    text = prompt.messages[-1].content[0].text
    assert text.startswith("(The assistant said before: xxx")
    assert text.endswith("Shall I run the tests?)\nYes.")
    assert len(text) < 300


def test_what_an_agent_puts_beside_a_message_is_left_out_and_of_a_long_one_the_middle() -> None:
    prompt = gate_prompt(
        asked("<system-reminder>Today is\nMonday.</system-reminder>", "Fix it. " + "x" * 5000 + " Now.")
    )
    assert prompt is not None
    text = prompt.messages[-1].content[0].text
    assert text.startswith("Fix it.")
    assert text.endswith("Now.")
    assert len(text) < 700
    assert "Monday" not in text


@pytest.mark.parametrize(
    ("likeliest", "need"),
    [
        (alternatives(tools=-0.1, knowledge=-2.4), Need.TOOL),
        (alternatives(tool=-0.1, knowledge=-2.4, Tools=-5.0), Need.TOOL),
        (alternatives(tools=-2.4, know=-0.1), Need.NONE),
        (alternatives(knowledge=-0.1), Need.NONE),
        (alternatives(tools=-0.6, knowledge=-0.8), Need.UNSURE),
        (alternatives(Well=-0.1, well=-0.5), Need.UNSURE),
        (alternatives(Well=-0.1, tools=-4.0, knowledge=-9.0), Need.UNSURE),
        ([], Need.UNSURE),
    ],
)
def test_an_answer_counts_if_it_is_twice_as_likely_as_the_other_one(likeliest: list[pb.TopLogprob], need: Need) -> None:
    assert need_of(likeliest) is need


def test_only_where_no_tool_is_needed_the_request_changes() -> None:
    request = asked("List the files.")
    assert decided(request, Need.NONE).chat.tool_choice.mode == pb.TOOL_CHOICE_MODE_NONE
    assert decided(request, Need.TOOL) is request
    assert decided(request, Need.UNSURE) is request
    assert request == asked("List the files.")


def test_calls_and_code_blocks_are_known_by_their_first_token() -> None:
    pieces = [b"{", b' {"', b"```", b"\n```", b"<tool_call>", b"The", b"", b"<", b"\xe2\x82"]
    assert call_beginnings(pieces) == {0, 1, 2, 3, 4}


async def test_the_model_is_asked_once_for_one_word() -> None:
    seen: list[pb.GenerateRequest] = []

    async def generate(request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse]:
        seen.append(request)
        logprob = pb.TokenLogprob(token="tools", top=alternatives(tools=-0.1, knowledge=-3.0))
        yield pb.GenerateResponse(delta=pb.Delta(content="tools", logprobs=[logprob]))
        yield pb.GenerateResponse(finish=pb.Finish(usage=pb.Usage(prompt_token_count=300, cached_token_count=280)))

    assert await ask(asked("List the files."), generate) is Need.TOOL
    [question] = seen
    assert (question.max_tokens, question.sampling.temperature, question.request_id) == (1, 0.0, "r-gate")


async def test_a_model_that_can_not_be_asked_decides_in_its_answer() -> None:
    async def generate(_: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse]:
        raise Overloaded("Too many requests.")
        yield

    assert await ask(asked("List the files."), generate) is Need.UNSURE
