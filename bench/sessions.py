"""Requests of the size and shape that a coding agent sends, made here so that anyone can run the benchmarks."""

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from bench.client import Body
from bench.sizes import FULL, Sizes

TASK: Final = "Two unit tests fail. Find out why and fix the code."
_SUBAGENT_TOOLS: Final = ("bash", "glob", "grep", "read", "webfetch")
_RULES: Final = (
    "Keep answers short and to the point.",
    "Read a file before you change it.",
    "Follow the conventions of the code around a change.",
    "Never commit unless you are asked to.",
    "Run the tests after a change and report what they say.",
    "Prefer small functions with clear names.",
)
_COMMON: Final = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend"
)
_WORDS: Final = _COMMON.split()
_RESULT_TOKENS: Final = (300, 1500, 170, 110, 80, 70, 400, 900)
"""Of the tool results of successive turns, as in recorded sessions."""
_CALLS: Final = (
    ("bash", {"command": "python -m pytest -q"}),
    ("read", {"filePath": "/srv/project/ledger/model.py"}),
    ("grep", {"pattern": "def between", "include": "*.py"}),
    ("edit", {"filePath": "/srv/project/ledger/model.py", "oldString": "a < b", "newString": "a <= b"}),
)


def main_request(*, directory: str, task: str, sizes: Sizes = FULL) -> Body:
    """The first request of an agent loop: about 7,000 tokens of system prompt and tools, then the task."""
    system = f"You are a coding agent in a terminal.\n{_rules(sizes.system_rules)}\n{_environment(directory)}"
    return {
        "model": "main",
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": task}],
        "tools": [_tool(tool, sizes.tool_sentences) for tool in _tools()],
        "tool_choice": "auto",
        "temperature": 0,
        "max_tokens": 16,
    }


def subagent_requests(*, directory: str, sizes: Sizes = FULL) -> tuple[Body, Body]:
    """The first requests of two agents that a main loop starts at once: about 3,000 tokens, all but the last alike."""
    rules = _rules(sizes.system_rules * 2 // 5)
    system = f"You are a file search specialist.\n{rules}\n{_environment(directory)}"
    tools = [_tool(tool, sizes.tool_sentences) for tool in _tools() if tool["name"] in _SUBAGENT_TOOLS]
    tasks = ("Find where the input is parsed and list the files.", "Find the modules without a test and list them.")
    first, second = (
        {
            "model": "main",
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": task}],
            "tools": tools,
            "tool_choice": "auto",
            "temperature": 0,
            "max_tokens": 32,
        }
        for task in tasks
    )
    return first, second


def title_request(task: str) -> Body:
    """The request that names a session, sent beside the first one."""
    examples = "\n".join(f'"{rule}" -> a title of {number} words' for number, rule in enumerate(_RULES * 5, 3))
    return {
        "model": "small",
        "messages": [
            {"role": "system", "content": f"You are a title generator. You output ONLY a thread title.\n{examples}"},
            {"role": "user", "content": "Generate a title for this conversation:\n"},
            {"role": "user", "content": task},
        ],
        "temperature": 0,
        "max_tokens": 16,
    }


def session(*, directory: str, sizes: Sizes = FULL, task: str = TASK) -> Iterator[tuple[str, Body]]:
    """All requests of one agent session with their kinds: a title, then turns whose history only grows."""
    yield "title", title_request(task)
    request = main_request(directory=directory, task=task, sizes=sizes)
    messages = request["messages"]
    for turn in range(sizes.turns):
        yield "main", {**request, "messages": list(messages)}
        name, arguments = _CALLS[turn % len(_CALLS)]
        call = {"name": name, "arguments": json.dumps(arguments, separators=(",", ":"))}
        call_id = f"call_{turn}"
        result = words(_RESULT_TOKENS[turn % len(_RESULT_TOKENS)], seed=turn)
        messages += [
            {
                "role": "assistant",
                "content": f"Step {turn + 1} of the work.",
                "tool_calls": [{"id": call_id, "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": call_id, "content": result},
        ]


def agents_session(*, directory: str, sizes: Sizes = FULL) -> Iterator[tuple[str, str, Body]]:
    """A session that lets two subagents work at once: kind, agent (empty for the loop) and body of each request."""
    task = "Find what has no test, and where the input is parsed."
    yield "title", "", title_request(task)
    main = main_request(directory=directory, task=task, sizes=sizes)
    yield "main", "", main
    reports = [words(120, seed=f"report {name}") for name in ("first", "second")]
    for name, first in zip(("first", "second"), subagent_requests(directory=directory, sizes=sizes), strict=True):
        yield "sub", name, first
        yield "sub", name, _continued(first, ("grep", {"pattern": name}, words(300, seed=name)))
    calls = [("task", {"prompt": report[:20]}, report) for report in reports]
    yield "main", "", _continued(main, *calls)


def compaction_request(*, sizes: Sizes = FULL) -> Body:
    """The request that summarises a session whose history is long."""
    history = words(sizes.prefill_tokens, seed="history")
    return {
        "model": "main",
        "messages": [
            {"role": "system", "content": "You are a context summarization agent. Summarise what follows."},
            {"role": "user", "content": f"Here is the conversation so far:\n\n<conversation>\n{history}"},
        ],
        "temperature": 0,
        "max_tokens": 32,
    }


def _continued(body: Body, *calls: tuple[str, dict[str, Any], str]) -> Body:
    """The next request of a loop, after calls with these names, arguments and results."""
    made = [
        {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for number, (name, arguments, _) in enumerate(calls)
    ]
    results = [
        {"role": "tool", "tool_call_id": f"call_{number}", "content": result}
        for number, (_, _, result) in enumerate(calls)
    ]
    return {**body, "messages": [*body["messages"], {"role": "assistant", "content": "", "tool_calls": made}, *results]}


def words(count: int, *, seed: int | str) -> str:
    """Text of common words, nearly each one a token; the same for the same seed."""
    choose = random.Random(seed)
    chosen = [choose.choice(_WORDS) for _ in range(count)]
    return "\n".join(" ".join(chosen[start : start + 16]) for start in range(0, count, 16))


def text_request(tokens: int, *, salt: str, max_tokens: int = 1) -> Body:
    """A long text without tools, new from its first word on."""
    content = f"{salt}\n{words(tokens, seed=salt)}\nWhich of these words is the shortest?"
    return {
        "model": "main",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": max_tokens,
    }


def explanation_request(number: int, *, max_tokens: int, salt: str = "") -> Body:
    """A short question whose answer has exactly so many tokens: a small model may refuse and be done in a dozen."""
    topic = _WORDS[number % len(_WORDS)]
    content = f"{salt}Write a Python program that simulates a {topic}, and explain every part of it in detail."
    return {
        "model": "main",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": max_tokens,
        "ignore_eos": True,
    }


def _rules(count: int) -> str:
    return "\n".join(f"{number}. {_RULES[number % len(_RULES)]}" for number in range(count))


def _environment(directory: str) -> str:
    return f"<env>\n  Working directory: {directory}\n  Platform: linux\n</env>"


@cache
def _tools() -> list[dict[str, Any]]:
    tools: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data/tools.json").read_text())
    return tools


def _tool(tool: dict[str, Any], sentences: int) -> dict[str, Any]:
    advice = (f"{_RULES[number % len(_RULES)]} This holds for {tool['name']}." for number in range(sentences))
    description = " ".join([tool["description"], *advice])
    return {"type": "function", "function": {**tool, "description": description}}
