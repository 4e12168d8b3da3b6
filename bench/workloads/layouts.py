"""Prompt layouts: what a session in another directory saves with each, and what becomes of tool calls."""

from collections.abc import Sequence
from typing import Final

from bench.servers.target import Target
from bench.tool_set import RESULTS_FILE, Verdict, read_tool_requests
from bench.workload import PEER, Contestant, Round, Sample, Workload
from bench.workloads.tools import ask_all, every_nth, judge_all

_LAYOUTS: Final = ("template", "environment_in_user", "environment_message", "tools_first", "tools_first_restated")


async def measure(target: Target, turn: Round) -> list[Sample]:
    """Some of the requests for tools, what comes behind results, the first request of a session elsewhere."""
    requests = every_nth(read_tool_requests(), turn.sizes.layout_requests)
    samples = await ask_all(target, turn, requests)
    behind, details = await judge_all(
        target, turn, every_nth(read_tool_requests(RESULTS_FILE), turn.sizes.layout_requests)
    )
    other = turn.material.main(directory="/srv/another/project", task="Write a README for this package.", max_tokens=1)
    new = await target.chat(other)
    return [
        *samples,
        *behind_results(behind),
        *details,
        Sample("prompt tokens", new.prompt_tokens, "tokens"),
        Sample("tokens prefilled in another directory", new.prefilled_tokens, "tokens", "lower"),
    ]


def behind_results(verdicts: Sequence[Verdict]) -> list[Sample]:
    """Whether an agent's loop ends where it should, and goes on where it should."""
    answered = [verdict for verdict in verdicts if not verdict.needs_tool]
    unfinished = [verdict for verdict in verdicts if verdict.needs_tool]
    return [
        Sample("results that answer the question", len(answered), ""),
        Sample("answered without another call", sum(not verdict.delivered for verdict in answered), "", "higher"),
        Sample("results that need another call", len(unfinished), ""),
        Sample("called a fitting tool", sum(verdict.right_tool for verdict in unfinished), "", "higher"),
    ]


_GATED: Final = ("template", "environment_message")
"""Layouts that are also tried with the tool gate."""

LAYOUTS = Workload(
    "layouts",
    "orders of a prompt's parts: requests for tools, and the first request in another directory",
    measure,
    contestants=(
        *(Contestant(layout, "localcode", {"prompt_layout": layout}) for layout in _LAYOUTS),
        *(Contestant(f"{one}, gate", "localcode", {"prompt_layout": one, "tool_gate": True}) for one in _GATED),
        PEER,
    ),
    model="main",
    once=True,
)
