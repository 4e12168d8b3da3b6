"""The next turn of a session after the server was restarted."""

from bench.servers.target import Target
from bench.workload import Round, Sample, Workload


async def measure(target: Target, turn: Round) -> list[Sample]:
    """All turns but the last one, a restart in the same directory, then the last turn."""
    assert target.restart
    *earlier, last = turn.material.turns()
    known = 0
    for recorded in earlier:
        known = (await target.chat(recorded.body, recorded.headers)).prompt_tokens
    target = await target.restart()
    after = await target.chat(last.body, last.headers)
    return [
        Sample("TTFT after the restart", after.ttft_seconds, "s", "lower"),
        Sample("prompt tokens", after.prompt_tokens, "tokens"),
        Sample("tokens new in this turn", after.prompt_tokens - known, "tokens"),
        Sample("tokens prefilled", after.prefilled_tokens, "tokens", "lower"),
    ]


RESTART = Workload("restart", "the next turn of a session after a restart of the server", measure)
