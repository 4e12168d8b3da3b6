"""The set of requests that need a tool or none, and the judge of what a model did. Pure but for reading the file."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SET_FILE: Final = Path(__file__).parent / "data/tool_requests.jsonl"
RESULTS_FILE: Final = SET_FILE.with_name("tool_results.jsonl")


@dataclass(frozen=True)
class Accepted:
    """A call that fits: the tool, and a regular expression, whatever the case, for each argument that matters."""

    tool: str
    arguments: Mapping[str, str]


@dataclass(frozen=True)
class ToolRequest:
    """What a person asks for, and the calls that fit; none where no tool is needed."""

    name: str
    prompt: str
    accepted: tuple[Accepted, ...]
    exchange: tuple[dict[str, Any], ...] = ()
    """Messages of a call that was made and its result, behind which the answer is asked for."""


@dataclass(frozen=True)
class Verdict:
    """What came of one request."""

    needs_tool: bool
    delivered: bool
    """A tool call came whose arguments are a JSON object."""
    right_tool: bool
    right_arguments: bool


def read_tool_requests(path: Path = SET_FILE) -> list[ToolRequest]:
    """Reads the set, or one of the same form."""
    return [_request(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line]


def judge(request: ToolRequest, calls: Sequence[Mapping[str, str]]) -> Verdict:
    """Judges by the first call: it is what an agent does next."""
    arguments = _arguments(calls[0]) if calls else None
    if not calls or arguments is None:
        return Verdict(bool(request.accepted), delivered=False, right_tool=False, right_arguments=False)
    fitting = [accepted for accepted in request.accepted if accepted.tool == calls[0]["name"]]
    return Verdict(
        bool(request.accepted),
        delivered=True,
        right_tool=bool(fitting),
        right_arguments=any(_fits(arguments, accepted.arguments) for accepted in fitting),
    )


def _request(line: Mapping[str, Any]) -> ToolRequest:
    accepted = tuple(Accepted(entry["tool"], entry.get("arguments", {})) for entry in line["accept"])
    exchange = _exchange(line["call"], line["result"]) if "call" in line else ()
    return ToolRequest(line["name"], line["prompt"], accepted, exchange)


def _exchange(call: Mapping[str, Any], result: str) -> tuple[dict[str, Any], ...]:
    function = {"name": call["tool"], "arguments": json.dumps(call["arguments"])}
    made = {"id": "call_1", "type": "function", "function": function}
    return (
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "call_1", "content": result},
    )


def _arguments(call: Mapping[str, str]) -> dict[str, Any] | None:
    try:
        arguments = json.loads(call["arguments"])
    except ValueError:
        return None
    return arguments if isinstance(arguments, dict) else None


def _fits(arguments: Mapping[str, Any], patterns: Mapping[str, str]) -> bool:
    return all(re.search(pattern, str(arguments.get(name, "")), re.IGNORECASE) for name, pattern in patterns.items())
