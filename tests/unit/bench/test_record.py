import json
from pathlib import Path

from httpx import ASGITransport, AsyncClient

from bench.record import Recorder, kind_of, next_delta, write_scenario
from bench.traces import read_traces

SYSTEM = {"role": "system", "content": "You are opencode."}
USER = {"role": "user", "content": "Go."}
TOOLS = [{"type": "function", "function": {"name": "read"}}]


def test_kinds_are_told_by_parent_tools_and_first_words() -> None:
    title = {"messages": [{"role": "system", "content": "You are a title generator. You output ONLY"}]}
    assert kind_of({"messages": [SYSTEM], "tools": TOOLS}, {}) == "main"
    assert kind_of({"messages": [SYSTEM], "tools": TOOLS}, {"x-parent-session-id": "s"}) == "sub"
    assert kind_of(title, {}) == "title"
    assert kind_of({"messages": [SYSTEM]}, {}) == "compaction"


def test_the_script_calls_tools_and_then_ends() -> None:
    messages = [SYSTEM, USER]
    names = []
    while "tool_calls" in (delta := next_delta({"messages": messages, "tools": TOOLS}, Path("/srv/p"))):
        call = delta["tool_calls"][0]
        names.append(call["function"]["name"])
        assert json.loads(call["function"]["arguments"])
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": "done"})
    assert names == ["bash", "read", "read", "grep"]
    assert "content" in delta


async def test_what_is_recorded_can_be_read_as_traces(tmp_path: Path) -> None:
    recorder = Recorder(Path("/srv/p"))
    transport = ASGITransport(recorder.app())
    body = {"model": "main", "messages": [SYSTEM, USER], "tools": TOOLS}
    async with AsyncClient(transport=transport, base_url="http://recorder") as client:
        answer = await client.post("/v1/chat/completions", json=body, headers={"x-session-id": "ses_1"})
    assert answer.text.endswith("data: [DONE]\n\n")
    assert write_scenario(tmp_path / "opencode", recorder.requests) == 1
    [recorded] = read_traces(tmp_path)["opencode"]
    assert (recorded.kind, recorded.body, recorded.headers) == ("main", body, {"x-session-id": "ses_1"})
