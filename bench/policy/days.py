"""The two days that the store's policy is tried on: one of recorded requests, one of generated ones."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from bench.client import Body
from bench.policy.day import Day, Session, make_day
from bench.sessions import main_request, session, subagent_requests, text_request, title_request, words
from bench.sizes import FULL, Sizes
from bench.traces import Recorded, in_directory

_DIRECTORIES: Final = ("/srv/ledger", "/srv/website", "/srv/firmware", "/srv/papers", "/srv/tools", "/srv/notes")
_FILE_TOKENS: Final = (120, 400, 900)


def recorded_day(traces: Mapping[str, Sequence[Recorded]], *, session_count: int = 24, seed: int = 1) -> Day:
    """Recorded sessions in a mixed order, from three directories, each with a task of its own."""
    chance = random.Random(seed)
    sessions: list[Session] = []
    while len(sessions) < session_count:
        for scenario in chance.sample(sorted(traces), len(traces)):
            directory = chance.choice(_DIRECTORIES[:3])
            sessions.append([_varied(one, directory, number=len(sessions)) for one in traces[scenario]])
    return make_day("recorded", sessions[:session_count], seed=seed)


def generated_day(*, session_count: int = 60, sizes: Sizes = FULL, seed: int = 2) -> Day:
    """Many short sessions in six directories, half of them with two subagents, and some chats without tools."""
    chance = random.Random(seed)
    sessions = [list(_generated_session(number, chance, sizes)) for number in range(session_count)]
    return make_day("generated", sessions, seed=seed)


def _varied(recorded: Recorded, directory: str, *, number: int) -> Recorded:
    """The same request of another session: its first question is a new one, from another directory."""
    body = in_directory(recorded.body, directory)
    for message in body["messages"]:
        if message["role"] == "user" and isinstance(message["content"], str):
            message["content"] = f"Task {number}. {message['content']}"
            break
    return Recorded(recorded.scenario, recorded.kind, body, recorded.headers)


def _generated_session(number: int, chance: random.Random, sizes: Sizes) -> Iterator[Recorded]:
    directory = chance.choice(_DIRECTORIES)
    task = f"Task {number}: {words(20, seed=number)}"
    if number % 5 == 4:
        yield from _chat(number, chance)
        return
    if number % 10 == 7:
        yield from _long_session(number, directory, task, sizes)
        return
    yield Recorded("short", "title", title_request(task), {})
    body = main_request(directory=directory, task=task, sizes=sizes)
    yield from _grown(body, "main", turns=chance.choice((1, 2, 3)), chance=chance, salt=f"{number}")
    if number % 2:
        for place, asked in enumerate(subagent_requests(directory=directory, sizes=sizes)):
            asked["messages"][-1]["content"] += f" It is for task {number}."
            yield from _grown(asked, "sub", turns=3, chance=chance, salt=f"{number} {place}")


def _long_session(number: int, directory: str, task: str, sizes: Sizes) -> Iterator[Recorded]:
    for kind, body in session(directory=directory, sizes=sizes):
        if kind == "title":
            yield Recorded("long", kind, title_request(task), {})
        else:
            messages = [*body["messages"]]
            messages[1] = {"role": "user", "content": f"{task} ({number})"}
            yield Recorded("long", kind, {**body, "messages": messages}, {})


def _chat(number: int, chance: random.Random) -> Iterator[Recorded]:
    """A question about a text that is read once, in some of them with a second one."""
    body = text_request(1500, salt=f"Text {number}")
    yield Recorded("chat", "chat", body, {})
    if chance.random() < 0.5:
        more = [{"role": "assistant", "content": "This one."}, {"role": "user", "content": "And the longest?"}]
        yield Recorded("chat", "chat", {**body, "messages": [*body["messages"], *more]}, {})


def _grown(body: Body, kind: str, *, turns: int, chance: random.Random, salt: str) -> Iterator[Recorded]:
    """An agent loop of so many turns, each but the last with one call of a tool."""
    messages = list(body["messages"])
    for turn in range(turns):
        yield Recorded("short", kind, {**body, "messages": list(messages)}, {})
        call = {"name": "read", "arguments": json.dumps({"filePath": f"/srv/{salt}/{turn}.py"})}
        result = words(chance.choice(_FILE_TOKENS), seed=f"{salt} {turn}")
        messages += [
            {
                "role": "assistant",
                "content": f"I read file {turn}.",
                "tool_calls": [{"id": f"call_{turn}", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": f"call_{turn}", "content": result},
        ]
