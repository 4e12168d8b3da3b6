"""Whether tool calls arrive: requests that need one of OpenCode's tools, and requests that need none."""

from collections.abc import Sequence

from bench.servers.target import Target
from bench.tool_set import ToolRequest, Verdict, judge, read_tool_requests
from bench.workload import DETAIL, PEER, Contestant, Round, Sample, Workload

_MOST_TOKENS = 256
"""Enough for a call that writes a short file."""
_SHOWN_CHARACTERS = 120
"""Of an answer without a call: whether it meant to call can be seen there."""


async def measure(target: Target, turn: Round) -> list[Sample]:
    """Puts each request into the agent's prompt, one after the other, at temperature 0."""
    return await ask_all(target, turn, every_nth(read_tool_requests(), turn.sizes.tool_requests))


def every_nth(requests: list[ToolRequest], limit: int | None) -> list[ToolRequest]:
    """At most so many of them, from all parts of the set."""
    return requests if limit is None else requests[:: max(len(requests) // limit, 1)][:limit]


async def ask_all(target: Target, turn: Round, requests: Sequence[ToolRequest]) -> list[Sample]:
    """Judges what a server makes of each request."""
    verdicts, details = await judge_all(target, turn, requests)
    return summary(verdicts) + details


async def judge_all(target: Target, turn: Round, requests: Sequence[ToolRequest]) -> tuple[list[Verdict], list[Sample]]:
    """The same, and what each answer did."""
    verdicts, details = [], []
    for request in requests:
        body = turn.material.main(task=request.prompt, max_tokens=_MOST_TOKENS)
        answer = await target.chat({**body, "messages": [*body["messages"], *request.exchange]})
        calls, verdict = answer.calls, judge(request, answer.calls)
        verdicts.append(verdict)
        called = calls[0]["name"] if calls else f"no call, but {answer.text[:_SHOWN_CHARACTERS]!r}"
        score = verdict.delivered + verdict.right_tool + verdict.right_arguments
        details.append(Sample(f"{request.name}: {called}", score, DETAIL))
    return verdicts, details


def summary(verdicts: Sequence[Verdict]) -> list[Sample]:
    """Counts; requests that need a tool and those that need none apart."""
    needing = [verdict for verdict in verdicts if verdict.needs_tool]
    needless = [verdict for verdict in verdicts if not verdict.needs_tool]
    return [
        Sample("requests that need a tool", len(needing), ""),
        Sample("delivered as a tool call", sum(verdict.delivered for verdict in needing), "", "higher"),
        Sample("the right tool", sum(verdict.right_tool for verdict in needing), "", "higher"),
        Sample("the right tool and arguments", sum(verdict.right_arguments for verdict in needing), "", "higher"),
        Sample("requests that need none", len(needless), ""),
        Sample("false calls", sum(verdict.delivered for verdict in needless), "", "lower"),
    ]


_SHIPPED = {"prompt_layout": "environment_message", "tool_gate": True}
"""As `localcode.toml` configures this model."""

TOOLS = Workload(
    "tools",
    "requests in the agent's prompt that need a tool, or none",
    measure,
    contestants=(Contestant("localcode", "localcode", _SHIPPED), PEER),
    model="main",
    fresh=False,
    once=True,
)
