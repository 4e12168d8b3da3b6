import json
import re
import tomllib
from pathlib import Path

import pytest

from bench.tool_set import RESULTS_FILE, Accepted, ToolRequest, Verdict, judge, read_tool_requests
from bench.workloads.layouts import behind_results
from bench.workloads.tools import TOOLS, summary

SET = read_tool_requests()
RESULTS = read_tool_requests(RESULTS_FILE)
OPENCODE_TOOLS = {"bash", "edit", "glob", "grep", "read", "skill", "task", "todowrite", "webfetch", "write"}
READ = ToolRequest("x", "Read a.py", (Accepted("read", {"filePath": r"a\.py"}), Accepted("bash", {"command": "cat"})))
CHAT = ToolRequest("y", "Hello", ())


def call(name: str, **arguments: object) -> dict[str, str]:
    return {"name": name, "arguments": json.dumps(arguments)}


def test_the_set_has_a_hundred_requests_a_quarter_of_which_need_no_tool() -> None:
    needing = sum(bool(request.accepted) for request in SET)
    assert needing >= 75
    assert len(SET) - needing >= 25


@pytest.mark.parametrize("requests", [SET, RESULTS])
def test_names_and_prompts_occur_once(requests: list[ToolRequest]) -> None:
    assert len({one.name for one in requests}) == len({one.prompt for one in requests}) == len(requests)


def test_behind_each_result_stands_the_call_that_it_came_of() -> None:
    for request in RESULTS:
        asked, answered = request.exchange
        assert asked["tool_calls"][0]["function"]["name"] in OPENCODE_TOOLS
        assert answered["tool_call_id"] == asked["tool_calls"][0]["id"]
    assert not any(request.exchange for request in SET)


def test_what_comes_behind_results_is_counted() -> None:
    verdicts = [
        Verdict(needs_tool=False, delivered=True, right_tool=False, right_arguments=False),
        Verdict(needs_tool=False, delivered=False, right_tool=False, right_arguments=False),
        Verdict(needs_tool=True, delivered=True, right_tool=True, right_arguments=False),
    ]
    assert [sample.value for sample in behind_results(verdicts)] == [2, 1, 1, 1]


def test_only_tools_that_opencode_offers_are_accepted_and_all_patterns_compile() -> None:
    accepted = [entry for request in [*SET, *RESULTS] for entry in request.accepted]
    assert {entry.tool for entry in accepted} <= OPENCODE_TOOLS
    for entry in accepted:
        for pattern in entry.arguments.values():
            re.compile(pattern, re.IGNORECASE)


def test_most_tools_are_asked_for() -> None:
    first = {request.accepted[0].tool for request in SET if request.accepted}
    assert {"bash", "edit", "glob", "grep", "read", "todowrite", "webfetch", "write", "task"} <= first


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([], (False, False, False)),
        ([call("read", filePath="/src/a.py")], (True, True, True)),
        ([call("bash", command="cat a.py")], (True, True, True)),
        ([call("read", filePath="/src/b.py")], (True, True, False)),
        ([call("read")], (True, True, False)),
        ([call("write", filePath="a.py")], (True, False, False)),
        ([call("write"), call("read", filePath="a.py")], (True, False, False)),
        ([{"name": "read", "arguments": '{"filePath": "a'}], (False, False, False)),
        ([{"name": "read", "arguments": "[]"}], (False, False, False)),
    ],
)
def test_the_first_call_is_judged(calls: list[dict[str, str]], expected: tuple[bool, bool, bool]) -> None:
    verdict = judge(READ, calls)
    assert (verdict.delivered, verdict.right_tool, verdict.right_arguments) == expected


def test_any_call_is_false_where_none_is_needed() -> None:
    verdicts = [judge(CHAT, [call("bash", command="ls")]), judge(CHAT, []), judge(READ, [call("bash", command="ls")])]
    counts = {sample.name: sample.value for sample in summary(verdicts)}
    assert verdicts[0] == Verdict(needs_tool=False, delivered=True, right_tool=False, right_arguments=False)
    assert counts == {
        "requests that need a tool": 1,
        "delivered as a tool call": 1,
        "the right tool": 1,
        "the right tool and arguments": 0,
        "requests that need none": 2,
        "false calls": 1,
    }


def test_the_model_is_asked_as_it_is_shipped() -> None:
    shipped = tomllib.loads((Path(__file__).parents[3] / "localcode.toml").read_text())["models"]["coder"]
    [ours] = [contestant for contestant in TOOLS.contestants if contestant.program == "localcode"]
    assert {name: shipped[name] for name in ours.settings} == ours.settings
