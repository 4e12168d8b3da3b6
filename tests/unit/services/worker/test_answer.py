import json
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.answer import Answer, new_call_id
from services.worker.reasoning import ReasoningFormat
from services.worker.tool_calls.run_on import MOST_CALLS, MOST_CHARACTERS, MOST_REPEATS

TOOLS = [pb.Tool(name="read"), pb.Tool(name="bash")]
READ = '<tool_call>\n{"name": "read", "arguments": {"filePath": "ä🚀.py"}}\n</tool_call>'
BASH = '```json\n{"name": "bash", "arguments": {"command": "ls"}}\n```'


def make_answer(**options: object) -> Answer:
    numbers = count()
    return Answer(make_call_id=lambda: f"call_{next(numbers)}", **options)  # type: ignore[arg-type]


def run(answer: Answer, text: str, *, size: int = 4, ended_by_model: bool = True) -> list[pb.Delta]:
    data = text.encode()
    deltas: list[pb.Delta] = []
    for token_id, start in enumerate(range(0, len(data), size)):
        deltas += answer.feed(token_id, data[start : start + size])
        if answer.is_done:
            break
    return deltas + answer.finish(ended_by_model=ended_by_model)


def summary(deltas: list[pb.Delta]) -> tuple[str, str, list[tuple[str, str, str]]]:
    calls: dict[int, tuple[str, str, str]] = {}
    for delta in deltas:
        if delta.WhichOneof("piece") == "tool_call":
            part = delta.tool_call
            known = calls.get(part.index, ("", "", ""))
            calls[part.index] = (known[0] + part.id, known[1] + part.name, known[2] + part.arguments)
    reasoning = "".join(delta.reasoning for delta in deltas)
    return reasoning, "".join(delta.content for delta in deltas), [calls[index] for index in sorted(calls)]


FULL = f"<think>\nhm\n</think>\n\nLet me look.\n\n{READ}\n{BASH}"
FULL_SUMMARY = (
    "hm",
    "Let me look.",
    [("call_0", "read", '{"filePath": "ä🚀.py"}'), ("call_1", "bash", '{"command": "ls"}')],
)


@pytest.mark.parametrize("size", range(1, 12))
def test_an_answer_is_split_into_reasoning_content_and_calls_at_any_cut(size: int) -> None:
    answer = make_answer(tools=TOOLS, reasoning=ReasoningFormat())
    assert summary(run(answer, FULL, size=size)) == FULL_SUMMARY
    assert answer.has_tool_calls
    assert answer.stop_sequence == ""


@given(st.lists(st.sampled_from([READ, BASH, "<think>", "</think>", "a ", "é🚀", "\n", "END", "EN", "{", "```"])),
       st.integers(1, 9), st.booleans())  # fmt: skip
def test_any_cut_gives_the_same_answer_and_every_token_once(texts: list[str], size: int, ended: bool) -> None:
    text = "".join(texts)
    options = {"tools": TOOLS, "reasoning": ReasoningFormat(), "stop": ["END"]}
    answer, whole = make_answer(**options), make_answer(**options)
    deltas = run(answer, text, size=size, ended_by_model=ended)
    reference = run(whole, text, size=max(len(text.encode()), 1), ended_by_model=ended)
    assert summary(deltas) == summary(reference)
    assert answer.stop_sequence == whole.stop_sequence


@given(st.lists(st.sampled_from([READ, BASH, "a ", "é🚀", "\n", "{", "```", "##"]), max_size=12), st.integers(1, 9))
def test_every_token_comes_with_exactly_one_delta(texts: list[str], size: int) -> None:
    data = "".join(texts).encode()
    answer = make_answer(tools=TOOLS, stop=["#stop"])
    token_ids = [token_id for delta in run(answer, data.decode(), size=size) for token_id in delta.token_ids]
    token_count = len(token_ids) if answer.is_cut_after_a_call else len(range(0, len(data), size))
    assert token_ids == list(range(token_count))


@given(st.text())
def test_without_tools_calls_are_text(text: str) -> None:
    written = text + READ
    assert summary(run(make_answer(), written)) == ("", written, [])


def test_with_tool_choice_none_calls_are_text() -> None:
    answer = make_answer(tools=TOOLS, tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE))
    assert summary(run(answer, READ)) == ("", READ, [])
    assert not answer.has_tool_calls


def test_one_token_may_bring_text_and_a_whole_call() -> None:
    answer = make_answer(tools=TOOLS)
    deltas = answer.feed(7, f"Hi. {BASH}".encode())
    assert deltas == [
        pb.Delta(content="Hi.", token_ids=[7]),
        pb.Delta(tool_call=pb.ToolCallDelta(index=0, id="call_0", name="bash", arguments='{"command": "ls"}')),
    ]
    assert answer.finish(ended_by_model=True) == []


def test_tokens_whose_text_is_held_back_come_with_the_next_delta() -> None:
    answer = make_answer(stop=["###"])
    assert answer.feed(1, b"a") == [pb.Delta(content="a", token_ids=[1])]
    assert answer.feed(2, b"#") == []
    assert answer.feed(3, "é".encode()[:1]) == []
    assert answer.feed(4, "é".encode()[1:]) == [pb.Delta(content="#é", token_ids=[2, 3, 4])]
    assert answer.feed(5, b"#") == []
    assert answer.finish(ended_by_model=True) == [pb.Delta(content="#", token_ids=[5])]


def test_tokens_left_at_the_end_come_with_an_empty_delta() -> None:
    answer = make_answer()
    answer.feed(1, b"")
    (delta,) = answer.finish(ended_by_model=True)
    assert (delta.WhichOneof("piece"), delta.content, list(delta.token_ids)) == ("content", "", [1])


def test_a_stop_text_ends_the_answer() -> None:
    answer = make_answer(stop=["END", "STOP"])
    assert summary(run(answer, "Hello ENSTOP more", size=3)) == ("", "Hello EN", [])
    assert (answer.stop_sequence, answer.is_done) == ("STOP", True)
    assert answer.feed(99, b"x") == []


def test_a_call_cut_by_a_stop_text_or_a_limit_is_left_open() -> None:
    cut = '<tool_call>{"name": "bash", "arguments": {"command": "rm -r'
    stopped = make_answer(tools=TOOLS, stop=["END"])
    assert summary(run(stopped, cut + "END"))[2] == [("call_0", "bash", '{"command": "rm -r')]
    limited = make_answer(tools=TOOLS)
    assert summary(run(limited, cut, ended_by_model=False))[2] == [("call_0", "bash", '{"command": "rm -r')]
    ended = make_answer(tools=TOOLS)
    assert json.loads(summary(run(ended, cut))[2][0][2]) == {"command": "rm -r"}


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_without_parallel_calls_the_first_complete_call_ends_the_answer(size: int) -> None:
    answer = make_answer(tools=TOOLS, parallel_tool_calls=False)
    assert summary(run(answer, FULL.partition("</think>\n\n")[2] + "tail", size=size)) == (
        "", "Let me look.", FULL_SUMMARY[2][:1],
    )  # fmt: skip
    assert answer.is_done
    assert answer.is_cut_after_a_call


@pytest.mark.parametrize("size", [1, 1000])
def test_a_call_that_is_made_again_and_again_ends_the_answer(size: int) -> None:
    answer = make_answer(tools=TOOLS)
    calls = summary(run(answer, f"{READ}\n{BASH}\n" + f"{READ}\n" * 50, size=size))[2]
    assert answer.is_cut_after_a_call
    assert [name for _, name, _ in calls] == ["read", "bash", *["read"] * (MOST_REPEATS - 1)]


@pytest.mark.parametrize("size", [1, 7])
def test_an_answer_that_tells_what_its_call_might_bring_ends_after_some_sentences(size: int) -> None:
    answer = make_answer(tools=TOOLS)
    _, content, calls = summary(run(answer, f"Let me look.\n{READ}\n<tool_response>" + "x.py\n" * 5000, size=size))
    assert (answer.is_done, answer.is_cut_after_a_call, len(calls)) == (True, True, 1)
    assert MOST_CHARACTERS < len(content) < MOST_CHARACTERS + 50


def test_what_is_said_before_or_between_calls_is_whole() -> None:
    answer = make_answer(tools=TOOLS)
    said = "Then this one. " * (MOST_CHARACTERS // 20)
    _, content, calls = summary(run(answer, f"{said * 9}{READ}{said}{BASH}{said}"))
    assert (len(calls), content.count("Then")) == (2, 11 * (MOST_CHARACTERS // 20))
    assert not answer.is_cut_after_a_call


@pytest.mark.parametrize("wanted", [MOST_CALLS - 1, 2 * MOST_CALLS])
def test_calls_that_differ_go_on_up_to_a_number(wanted: int) -> None:
    answer = make_answer(tools=TOOLS)
    text = "\n".join(READ.replace("ä", str(number)) for number in range(wanted))
    assert len(summary(run(answer, text))[2]) == min(wanted, MOST_CALLS)
    assert answer.is_cut_after_a_call == (wanted > MOST_CALLS)


def test_tokens_of_reasoning_are_counted() -> None:
    answer = make_answer(reasoning=ReasoningFormat(starts_open=True))
    for token_id, piece in enumerate([b"why", b" not", b"</think>", b"\n\n", b"so"]):
        answer.feed(token_id, piece)
    assert answer.reasoning_token_count == 3


def test_logprobs_of_a_call_are_not_the_contents() -> None:
    answer = make_answer(tools=TOOLS)
    pieces = ["Look.", *READ, "\n"]
    deltas: list[pb.Delta] = []
    for token_id, piece in enumerate(pieces):
        deltas += answer.feed(token_id, piece.encode(), pb.TokenLogprob(token=piece, logprob=-1.0))
    deltas += answer.finish(ended_by_model=True)
    assert [logprob.token for delta in deltas for logprob in delta.logprobs] == ["Look."]


def test_logprobs_come_with_the_content_they_stand_for() -> None:
    answer = make_answer(stop=["##"], reasoning=ReasoningFormat())
    pieces = ["<think>", "hm", "</think>", "a", "#", "b"]
    deltas: list[pb.Delta] = []
    for token_id, piece in enumerate(pieces):
        deltas += answer.feed(token_id, piece.encode(), pb.TokenLogprob(token=piece, logprob=-1.0))
    deltas += answer.finish(ended_by_model=True)
    shown = [(delta.content, [logprob.token for logprob in delta.logprobs]) for delta in deltas if delta.content]
    assert shown == [("a", ["a"]), ("#b", ["#", "b"])]


def test_call_ids_are_unlike_each_other() -> None:
    ids = {new_call_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(call_id.startswith("call_") and len(call_id) == 29 and call_id[5:].isalnum() for call_id in ids)


def opening_after(text: str) -> str:
    answer = Answer(tools=[pb.Tool(name="read"), pb.Tool(name="write")])
    answer.feed(0, text.encode())
    return answer.call_opening


@pytest.mark.parametrize(
    ("text", "opening"),
    [
        ('<tool_call>\n{"name": "', '{"name": "'),
        ('<tool_call>\n{\n  "name": "', '{\n  "name": "'),
        ('```json\n{"name": "', '{"name": "'),
        ('Let me look.\n\n```json\n{"name":"re', '{"name":"re'),
        ('{ "name": "', '{ "name": "'),
    ],
)
def test_the_place_where_a_name_must_follow_is_known(text: str, opening: str) -> None:
    assert opening_after(text) == opening


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{\n  "name": "',
        '```json\n{"name": "read"',
        '{"title": "',
        'The key is {"name": "',
        '<tool_call>\n{"name": "read", "arguments": {"name": "',
    ],
)
def test_no_name_is_expected_elsewhere(text: str) -> None:
    assert opening_after(text) == ""
