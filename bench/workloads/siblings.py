"""Two subagents that start at once and share nearly all of their prompt."""

import asyncio

from bench.servers.target import Target
from bench.traces import salted
from bench.workload import Round, Sample, Workload


async def measure(target: Target, turn: Round) -> list[Sample]:
    """One cold subagent alone, then two cold ones at once."""
    first, second = turn.material.subagents()
    alone = await target.chat(salted(first, turn.salt("alone")), _headers(turn, "alone"))
    salt = turn.salt("both")
    both = await asyncio.gather(
        target.chat(salted(first, salt), _headers(turn, "first")),
        target.chat(salted(second, salt), _headers(turn, "second")),
    )
    earlier, later = sorted(both, key=lambda timing: timing.ttft_seconds)
    return [
        Sample("TTFT of one alone", alone.ttft_seconds, "s", "lower"),
        Sample("TTFT of the first of two", earlier.ttft_seconds, "s", "lower"),
        Sample("TTFT of the second of two", later.ttft_seconds, "s", "lower"),
        Sample("second of two over one alone", later.ttft_seconds / alone.ttft_seconds, "times", "lower"),
        Sample("longest gap of the first's stream", max(earlier.gaps_seconds, default=0.0), "s", "lower"),
        Sample("tokens prefilled for both", sum(timing.prefilled_tokens for timing in both), "tokens", "lower"),
        Sample("tokens of one prompt", alone.prompt_tokens, "tokens"),
    ]


def _headers(turn: Round, name: str) -> dict[str, str]:
    """What tells a server that a subagent asks."""
    return {"x-session-id": f"ses_{name}_{turn.number}", "x-parent-session-id": f"ses_parent_{turn.number}"}


SIBLINGS = Workload("siblings", "two cold subagents at once, which share all but their last message", measure)
