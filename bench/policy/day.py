"""A day of requests: when each arrives, what it asks, and what its answer was. Pure."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.client import Body
from bench.policy.rendering import Tokens, answer_tokens, prompt_tokens, system_tokens
from bench.sessions import words
from bench.traces import Recorded
from localcode.inference.v1 import inference_pb2 as pb

_CLASSES: Final = {
    "main": pb.REQUEST_CLASS_MAIN,
    "sub": pb.REQUEST_CLASS_SUBAGENT,
    "title": pb.REQUEST_CLASS_TITLE,
    "compaction": pb.REQUEST_CLASS_COMPACTION,
    "chat": pb.REQUEST_CLASS_CHAT,
}
_TOOL_SECONDS: Final = (1.0, 2.0, 3.0, 5.0, 8.0, 40.0)
_THINKING_SECONDS: Final = (30.0, 90.0, 180.0, 600.0)
_ANSWER_SECONDS: Final = (2.0, 4.0, 8.0)
_BETWEEN_SESSIONS_SECONDS: Final = (60.0, 300.0, 900.0)
_RETURN_SECONDS: Final = (1800.0, 3600.0, 7200.0)
_LAST_ANSWER_WORDS: Final = 60


@dataclass(frozen=True)
class Asked:
    """One request and its answer."""

    at: float
    """Seconds since the day began."""
    answered_at: float
    request_class: "pb.RequestClass.ValueType"
    prompt: Tokens
    answer: Tokens
    system_count: int
    """Tokens at the prompt's beginning that are system prompt and tools."""
    goes_on: bool
    """Whether the answer calls a tool."""


@dataclass(frozen=True)
class Day:
    """Requests in the order in which they arrive; between two of them the worker may be started anew."""

    name: str
    requests: Sequence[Asked]
    restarts: Sequence[int]
    """Indices of the requests before which that happens."""


Session = Sequence[Recorded]


def make_day(name: str, sessions: Sequence[Session], *, seed: int, at_once: int = 2, restart_count: int = 4) -> Day:
    """Lets sessions follow one another, some at once, with the pauses of tools and people; some are taken up again.

    The same seed gives the same day.
    """
    chance = random.Random(seed)
    free_at = [30.0 * track for track in range(at_once)]
    timed: list[Asked] = []
    for number, session in enumerate(sessions):
        track = free_at.index(min(free_at))
        requests = list(_timed(session, free_at[track], chance))
        free_at[track] = requests[-1].answered_at + chance.choice(_BETWEEN_SESSIONS_SECONDS)
        if number % 3 == 0:
            requests.append(_taken_up_again(session, requests, chance))
        timed += requests
    ordered = list(_one_after_another(sorted(timed, key=lambda asked: asked.at)))
    restarts = [len(ordered) * part // (restart_count + 1) for part in range(1, restart_count + 1)]
    return Day(name, ordered, restarts)


def _timed(session: Session, at: float, chance: random.Random) -> Iterator[Asked]:
    for index, recorded in enumerate(session):
        at += _pause(recorded, is_first=index == 0, chance=chance)
        answer, goes_on = _answer_of(session, index)
        asked = _asked(recorded.body, recorded.kind, answer, at=at, seconds=chance.choice(_ANSWER_SECONDS))
        at = asked.answered_at
        yield replace(asked, goes_on=goes_on)


def _pause(recorded: Recorded, *, is_first: bool, chance: random.Random) -> float:
    messages = recorded.body["messages"]
    if is_first or not any(message["role"] == "assistant" for message in messages):
        return 0.1  # a title, a subagent or a summary comes at once
    return chance.choice(_TOOL_SECONDS if messages[-1]["role"] == "tool" else _THINKING_SECONDS)


def _answer_of(session: Session, index: int) -> tuple[Tokens, bool]:
    """The answer to a request, as the next request of its conversation repeats it, and whether it calls a tool."""
    messages = session[index].body["messages"]
    for later in session[index + 1 :]:
        others = later.body["messages"]
        if others[: len(messages)] == messages and len(others) > len(messages):
            answer = others[len(messages)]
            if answer["role"] == "assistant":
                return answer_tokens(answer), bool(answer.get("tool_calls"))
    return _last_answer(str(messages[-1])), False


def _last_answer(seed: str) -> Tokens:
    return answer_tokens({"content": words(_LAST_ANSWER_WORDS, seed=seed)})


def _taken_up_again(session: Session, requests: Sequence[Asked], chance: random.Random) -> Asked:
    """A person comes back to the main conversation of a session long after it ended."""
    index = max(index for index, recorded in enumerate(session) if recorded.kind in ("main", "chat"))
    last = session[index].body
    messages = [
        *last["messages"],
        {"role": "assistant", "content": words(_LAST_ANSWER_WORDS, seed=str(last["messages"][-1]))},
        {"role": "user", "content": "Please look at it once more."},
    ]
    at = requests[-1].answered_at + chance.choice(_RETURN_SECONDS)
    body = {**last, "messages": messages}
    return _asked(body, session[index].kind, _last_answer("again"), at=at, seconds=chance.choice(_ANSWER_SECONDS))


def _asked(body: Body, kind: str, answer: Tokens, *, at: float, seconds: float) -> Asked:
    return Asked(at, at + seconds, _CLASSES[kind], prompt_tokens(body), answer, len(system_tokens(body)), goes_on=False)


def _one_after_another(requests: Sequence[Asked]) -> Iterator[Asked]:
    """One is answered before the next begins: which ones meet is no matter of the store's policy."""
    free_at = 0.0
    for asked in requests:
        late = max(0.0, free_at - asked.at)
        free_at = asked.answered_at + late
        yield replace(asked, at=asked.at + late, answered_at=free_at)
