import json
from itertools import pairwise
from pathlib import Path

import pytest

from bench.material import Material
from bench.sessions import main_request, session, subagent_requests, text_request, words
from bench.sizes import FULL, QUICK
from bench.traces import in_directory, read_traces, salted, with_task


def main_bodies() -> list[dict]:
    return [body for kind, body in session(directory="/srv/project") if kind == "main"]


def test_the_first_request_has_the_size_of_opencodes() -> None:
    tools = main_request(directory="/srv", task="Fix it.")["tools"]
    assert len(tools) == 10
    assert 18_000 < len(json.dumps(tools, separators=(",", ":"))) < 26_000


def test_history_only_grows() -> None:
    bodies = main_bodies()
    assert len(bodies) == FULL.turns
    for earlier, later in pairwise(bodies):
        assert later["messages"][: len(earlier["messages"])] == earlier["messages"]
        assert later["tools"] == earlier["tools"]


def test_every_tool_result_answers_a_call_with_json_arguments() -> None:
    messages = main_bodies()[-1]["messages"]
    calls = {call["id"]: call["function"] for message in messages for call in message.get("tool_calls", ())}
    assert [message["tool_call_id"] for message in messages if message["role"] == "tool"] == list(calls)
    assert all(isinstance(json.loads(function["arguments"]), dict) for function in calls.values())


def test_subagents_differ_in_their_last_message_only() -> None:
    first, second = subagent_requests(directory="/srv")
    assert first["messages"][:-1] == second["messages"][:-1]
    assert first["messages"][-1] != second["messages"][-1]
    assert {**first, "messages": []} == {**second, "messages": []}


def test_words_are_the_same_for_the_same_seed_and_as_many_as_asked_for() -> None:
    assert words(100, seed="a") == words(100, seed="a") != words(100, seed="b")
    assert len(words(100, seed="a").split()) == 100
    assert text_request(64, salt="[x]")["messages"][0]["content"].startswith("[x]\n")


def write_trace(folder: Path, name: str, kind: str, body: object, session_id: str = "s") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    headers = {"X-Session-Id": session_id, "authorization": "Bearer secret"}
    (folder / name).write_text(json.dumps({"kind": kind, "headers": headers, "body": body}))


def body(directory: str = "/srv/a") -> dict:
    system = f"You are an agent.\n  Working directory: {directory}\n  Workspace: {directory}\n"
    return {"model": "m", "messages": [{"role": "system", "content": system}, {"role": "user", "content": "Go."}]}


def test_traces_are_read_in_order_with_the_headers_of_their_session_only(tmp_path: Path) -> None:
    write_trace(tmp_path / "b", "002-main.json", "main", json.dumps(body()))
    write_trace(tmp_path / "b", "001-title.json", "title", body())
    write_trace(tmp_path / "a", "001-models.json", "models", None)
    traces = read_traces(tmp_path)
    assert [(name, [recorded.kind for recorded in requests]) for name, requests in traces.items()] == [
        ("b", ["title", "main"])
    ]
    assert traces["b"][1].headers == {"X-Session-Id": "s"}
    assert traces["b"][1].body == body()


def test_a_recorded_prompt_is_moved_salted_and_asked_something_else() -> None:
    moved = salted(with_task(in_directory(body(), "/srv/new"), "Stop."), "[1]")
    assert moved["messages"][0]["content"].startswith("[1]\nYou are an agent.\n")
    assert moved["messages"][0]["content"].count("/srv/new") == 2
    assert "/srv/a" not in str(moved)
    assert moved["messages"][1:] == [{"role": "user", "content": "Stop."}]
    assert body()["messages"][1]["content"] == "Go."


def test_material_comes_from_traces_where_they_have_it_and_else_is_made_here(tmp_path: Path) -> None:
    write_trace(tmp_path / "one", "001-main.json", "main", body())
    material = Material.of(QUICK, tmp_path)
    assert material.main(task="T")["messages"][0]["content"].startswith("You are an agent.")
    assert [recorded.body["model"] for recorded in material.sessions()] == ["main"]
    assert material.title()["model"] == "small"
    assert len(material.subagents()) == 2
    assert len(Material.of(QUICK, None).sessions()) == 1 + QUICK.turns


def test_only_some_scenarios_may_be_wanted(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_trace(tmp_path / name, "001-main.json", "main", body())
    assert list(Material.of(QUICK, tmp_path, ["two"]).traces) == ["two"]
    with pytest.raises(ValueError, match="no recorded scenario three; there are one, two"):
        Material.of(QUICK, tmp_path, ["three"])


def test_a_day_has_several_sessions_that_differ_from_their_first_request_on(tmp_path: Path) -> None:
    sessions = Material.of(QUICK, None).day()
    assert [len(session) for session in sessions] == [1 + QUICK.turns] * QUICK.day_sessions
    for requests in zip(*sessions, strict=True):
        assert len({str(recorded.body) for recorded in requests}) == QUICK.day_sessions
    for name in ("one", "two"):
        write_trace(tmp_path / name, "001-main.json", "main", body())
    assert len(Material.of(QUICK, tmp_path).day()) == 2
