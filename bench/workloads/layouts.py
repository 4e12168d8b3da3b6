"""Prompt layouts: what a session in another directory saves with each, and how many tool calls it loses."""

from typing import Final

from bench.servers.target import Target
from bench.tool_set import read_tool_requests
from bench.workload import PEER, Contestant, Round, Sample, Workload
from bench.workloads.tools import ask_all, every_nth

_LAYOUTS: Final = ("template", "environment_in_user", "environment_message", "tools_first", "tools_first_restated")


async def measure(target: Target, turn: Round) -> list[Sample]:
    """Some of the requests for tools, then the first request of a session in another directory."""
    requests = every_nth(read_tool_requests(), turn.sizes.layout_requests)
    samples = await ask_all(target, turn, requests)
    other = turn.material.main(directory="/srv/another/project", task="Write a README for this package.", max_tokens=1)
    new = await target.chat(other)
    return [
        *samples,
        Sample("prompt tokens", new.prompt_tokens, "tokens"),
        Sample("tokens prefilled in another directory", new.prefilled_tokens, "tokens", "lower"),
    ]


LAYOUTS = Workload(
    "layouts",
    "orders of a prompt's parts: requests for tools, and the first request in another directory",
    measure,
    contestants=(*(Contestant(layout, "localcode", {"prompt_layout": layout}) for layout in _LAYOUTS), PEER),
    model="main",
    once=True,
)
