import asyncio

import pytest

from bench.client import Timing, take_chunk
from bench.material import Material
from bench.servers.localcode import _serves_with
from bench.sizes import QUICK
from bench.traces import Recorded
from bench.trie import distinct_tokens
from bench.workloads.two_workers import findable, play


def recorded(kind: str, session: str = "main", number: int = 0) -> Recorded:
    return Recorded("s", kind, {"number": number}, {"x-session-id": session})


def test_one_worker_that_forgets_nothing_computes_what_is_new_and_a_last_token() -> None:
    prompts = [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [1, 2, 9], [1, 2, 3, 4]]
    found = findable(prompts)
    assert found == 0 + 4 + 2 + 3
    assert sum(map(len, prompts)) - found == distinct_tokens(prompts) + 1  # the last prompt is wholly known


async def test_a_session_is_sent_as_its_client_sends_it() -> None:
    """A title goes beside everything, subagents beside each other, turns and summaries one after the other."""
    session = [
        recorded("title"), recorded("main", number=1), recorded("sub", "a", 1), recorded("sub", "b", 1),
        recorded("sub", "a", 2), recorded("compaction", number=2), recorded("main", number=3),
    ]  # fmt: skip
    running: set[tuple[str, str]] = set()
    seen: list[tuple[str, set[tuple[str, str]]]] = []
    title_ends = asyncio.Event()

    async def send(one: Recorded) -> None:
        name = (one.kind, one.headers["x-session-id"])
        assert name not in running
        seen.append((f"{one.kind} {one.headers['x-session-id']} {one.body['number']}", set(running)))
        running.add(name)
        await (title_ends.wait() if one.kind == "title" else asyncio.sleep(0))
        running.remove(name)
        if one.body["number"] == 3:
            title_ends.set()

    await play(session, send)
    assert len(seen) == len(session)
    beside = {name: {kind for kind, _ in others} - {"title"} for name, others in seen}
    assert beside["sub b 1"] == {"sub"}
    assert all(not beside[name] for name in ("main main 1", "compaction main 2", "main main 3"))
    assert ("title", "main") in dict(seen)["main main 3"]


def test_generated_sessions_hold_agents_titles_and_a_summary() -> None:
    alone, agents, company = Material.of(QUICK, None).sessions_at_once()
    assert [one.kind for one in alone] == ["title", "main", "main", "main"]
    assert [one.kind for one in agents] == ["title", "main", "sub", "sub", "sub", "sub", "main"]
    assert [one.kind for one in company] == ["title", "compaction", "title"]
    assert len({one.headers["x-session-id"] for one in agents}) == 3
    assert {one.headers.get("x-parent-session-id") for one in agents} == {None, "ses_agents"}
    assert agents[-1].body["messages"][: len(agents[1].body["messages"])] == agents[1].body["messages"]


def test_recorded_sessions_are_the_longest_and_the_one_with_agents() -> None:
    def requests(scenario: str, *kinds: str) -> list[Recorded]:
        return [
            Recorded(scenario, kind, {"messages": ["word " * 10 * number]}, {"x-session-id": kind})
            for number, kind in enumerate(kinds)
        ]

    traces = {
        "a": requests("a", "title", "main"), "b": requests("b", "title", "main", "main", "main", "main"),
        "d": requests("d", "title", "main", "sub", "main"), "g": requests("g", "title", "main", "compaction"),
    }  # fmt: skip
    sessions = Material(QUICK, traces).sessions_at_once()
    assert [[one.scenario for one in session] for session in sessions] == [["b"] * 5, ["d"] * 4, ["a", "g", "g"]]
    assert [one.kind for one in sessions[2]] == ["title", "title", "compaction"]


def test_the_wait_is_what_the_server_did_not_work_on_the_prompt() -> None:
    timing = Timing(started_at=10.0, arrivals=[13.0])
    take_chunk(timing, {"choices": [], "timings": {"prompt_ms": 2500.0}})
    take_chunk(timing, {"choices": []})
    assert timing.waited_seconds == pytest.approx(0.5)


def test_workers_are_there_once_the_router_sees_them_well() -> None:
    def state(*healthy: bool) -> dict:
        return {"services": {"workers": [{"models": ["main"], "healthy": one} for one in healthy]}}

    assert [_serves_with(2, state(*healthy)) for healthy in [(True,), (True, False), (True, True)]] == [
        False, False, True,
    ]  # fmt: skip
