import json
from datetime import UTC, datetime

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.chat_template import ChatTemplate
from services.worker.replay import ReplayMemory, Spoken, Transcript, fits_frame, opening_of
from tests.fakes.chat_template import HERMES_TEMPLATE

NOW = datetime(2026, 11, 25, tzinfo=UTC)
WEATHER = pb.Tool(name="get_weather", parameters_json="{}")
TEMPLATE = ChatTemplate(
    HERMES_TEMPLATE, bos_token="", eos_token="<|im_end|>", special_tokens=["<|im_start|>", "<|im_end|>"]
)
FENCED = '```json\n{"name": "get_weather", "arguments": {"city": "Lisbon"}}\n```'


def said(role: pb.Role.ValueType, text: str, *, reasoning: str = "") -> pb.Message:
    return pb.Message(role=role, content=[pb.ContentPart(text=text)], reasoning_content=reasoning)


def called(name: str, arguments: str, *, text: str = "") -> pb.Message:
    message = said(pb.ROLE_ASSISTANT, text)
    message.tool_calls.append(pb.ToolCall(id="call_1", name=name, arguments_json=arguments))
    return message


def chat(*messages: pb.Message) -> pb.ChatPrompt:
    return pb.ChatPrompt(messages=messages, tools=[WEATHER])


def transcript(message: pb.Message) -> Transcript:
    found = Transcript()
    for part in message.content:
        found.add(pb.Delta(content=part.text))
    for index, call in enumerate(message.tool_calls):
        found.add(pb.Delta(tool_call=pb.ToolCallDelta(index=index, id=call.id, name=call.name)))
        found.add(pb.Delta(tool_call=pb.ToolCallDelta(index=index, arguments=call.arguments_json)))
    return found


def spoken(text: str, *, count: int = 3, reasoning: str = "") -> Spoken:
    return Spoken(tuple(range(count)), text, reasoning, "<|im_end|>\n<|im_start|>assistant\n")


QUESTION = said(pb.ROLE_USER, "How is the weather?")
CALL = called("get_weather", '{"city":"Lisbon"}')
RESULT = pb.Message(role=pb.ROLE_TOOL, tool_call_id="call_1", content=[pb.ContentPart(text="24 degrees")])


def remembering(answer: pb.Message, as_spoken: Spoken) -> ReplayMemory:
    memory = ReplayMemory()
    memory.remember(chat(QUESTION), transcript(answer), as_spoken)
    return memory


def test_an_answer_is_found_when_it_comes_back() -> None:
    answer = spoken("Hello.")
    memory = remembering(said(pb.ROLE_ASSISTANT, "Hello."), answer)
    assert memory.recall(chat(QUESTION, said(pb.ROLE_ASSISTANT, "Hello."), QUESTION)) == {1: answer}


@pytest.mark.parametrize(
    "sent_back",
    [
        called("get_weather", '{ "city" : "Lisbon" }'),
        called("get_weather", json.dumps({"city": "Lisbon"}, indent=2), text="\n"),
    ],
)
def test_a_call_is_found_whatever_its_white_space_and_id(sent_back: pb.Message) -> None:
    sent_back.tool_calls[0].id = "other"
    assert remembering(CALL, spoken(FENCED)).recall(chat(QUESTION, sent_back, RESULT)) == {1: spoken(FENCED)}


@pytest.mark.parametrize(
    "messages",
    [
        [QUESTION, called("get_weather", '{"city":"Porto"}')],
        [QUESTION, called("get_forecast", '{"city":"Lisbon"}')],
        [QUESTION, called("get_weather", '{"city":"Lisbon"}', text="I'll look.")],
        [said(pb.ROLE_USER, "Another question"), CALL],
        [QUESTION, QUESTION, CALL],
    ],
)
def test_what_means_something_else_is_not_found(messages: list[pb.Message]) -> None:
    assert remembering(CALL, spoken(FENCED)).recall(chat(*messages, RESULT)) == {}


def test_answers_are_forgotten_beyond_the_bounds_the_longest_unused_first() -> None:
    memory = ReplayMemory(most_answers=3, most_tokens=8)
    conversations = [chat(said(pb.ROLE_USER, str(number))) for number in range(3)]
    answer = said(pb.ROLE_ASSISTANT, "Yes")
    for one in conversations:
        memory.remember(one, transcript(answer), spoken("Yes"))
    assert [bool(memory.recall(chat(*one.messages, answer))) for one in conversations] == [False, True, True]


def test_a_fenced_call_stands_in_the_prompt_as_it_was_written_and_the_rest_as_the_template_writes_it() -> None:
    prompt = chat(QUESTION, CALL, RESULT)
    rendered = TEMPLATE.replay(prompt, now=NOW, spoken={1: spoken(FENCED)})
    before = TEMPLATE.render(chat(QUESTION), now=NOW).text
    after = (
        "<|im_end|>\n<|im_start|>user\n<tool_response>\n24 degrees\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    assert rendered.text == before + FENCED + after
    assert [segment.token_ids for segment in rendered.segments] == [None, (0, 1, 2), None]


def test_several_answers_are_put_in_place() -> None:
    prompt = chat(QUESTION, CALL, RESULT, said(pb.ROLE_ASSISTANT, "Warm."), QUESTION, CALL, RESULT)
    answers = {1: spoken(FENCED), 3: spoken("Warm. "), 5: spoken(FENCED)}
    rendered = TEMPLATE.replay(prompt, now=NOW, spoken=answers)
    assert rendered.text.count(FENCED) == 2
    assert "Warm. <|im_end|>" in rendered.text


def test_an_answer_is_not_put_where_its_prompt_did_not_end_like_this() -> None:
    other = Spoken((1,), FENCED, "", "<think>\n")
    plain = TEMPLATE.render(chat(QUESTION, CALL, RESULT), now=NOW)
    assert TEMPLATE.replay(chat(QUESTION, CALL, RESULT), now=NOW, spoken={1: other}) == plain


def test_an_answer_whose_reasoning_the_template_drops_is_not_put_in_place() -> None:
    prompt = chat(QUESTION, said(pb.ROLE_ASSISTANT, "Yes", reasoning="hm"), QUESTION)
    thinking = spoken("<think>\nhm\n</think>\n\nYes", reasoning="hm")
    assert thinking.text in TEMPLATE.replay(prompt, now=NOW, spoken={1: thinking}).text
    prompt.messages[1].reasoning_content = ""
    plain = TEMPLATE.render(prompt, now=NOW)
    assert TEMPLATE.replay(prompt, now=NOW, spoken={1: thinking}) == plain


def test_a_template_that_writes_something_else_around_the_real_message_keeps_it() -> None:
    source = (
        "{% for m in messages %}[{{ m.role }}{% if m.tool_calls %} calls{{ m.tool_calls[0].function.name }}{% endif %}]"
        "{{ m.content }}{% endfor %}[assistant]"
    )
    template = ChatTemplate(source, bos_token="", eos_token="", special_tokens=[])
    prompt = chat(QUESTION, CALL, RESULT)
    answer = Spoken((1,), FENCED, "", "[assistant]")
    assert template.replay(prompt, now=NOW, spoken={1: answer}) == template.render(prompt, now=NOW)


def test_a_frame_must_fit_at_both_ends() -> None:
    answer = Spoken((1,), "x", "", "a:")
    assert fits_frame("a:real;b", ["a:", ";b"], [answer])
    assert not fits_frame("a:real;c", ["a:", ";b"], [answer])
    assert not fits_frame("b:real;b", ["a:", ";b"], [answer])


def test_the_opening_is_the_end_of_a_prompt() -> None:
    assert TEMPLATE.render(chat(QUESTION), now=NOW).text.endswith(
        opening_of("x" * 100 + "<|im_start|>assistant\n")[-22:]
    )
