"""The first request of a session in another directory, while one of the first directory is cached."""

from bench.servers.target import Target
from bench.workload import Round, Sample, Workload


async def measure(target: Target, turn: Round) -> list[Sample]:
    """Two sessions' first requests, which differ in the path that the system prompt names and in the task."""
    known = await target.chat(turn.material.main(directory="/srv/first"))
    other = turn.material.main(directory="/srv/another/project", task="Write a README for this package.")
    new = await target.chat(other)
    return [
        Sample("TTFT in the first directory", known.ttft_seconds, "s", "lower"),
        Sample("TTFT in another directory", new.ttft_seconds, "s", "lower"),
        Sample("prompt tokens", new.prompt_tokens, "tokens"),
        Sample("tokens prefilled in another directory", new.prefilled_tokens, "tokens", "lower"),
    ]


DIRECTORY = Workload("directory", "first request of a session in another directory", measure)
