"""A main request with the title request that OpenCode sends beside it, in the default two-model configuration."""

import asyncio

from bench.servers.target import Target
from bench.traces import salted
from bench.workload import Contestant, Round, Sample, Workload


async def measure(target: Target, turn: Round) -> list[Sample]:
    """A cold first main request alone, then another with a title beside it."""
    main = turn.material.main()
    alone = await target.chat(salted(main, turn.salt("alone")))
    beside, title = await asyncio.gather(
        target.chat(salted(main, turn.salt("beside"))),
        target.chat(salted_user(turn)),
    )
    return [
        Sample("TTFT of a main request alone", alone.ttft_seconds, "s", "lower"),
        Sample("TTFT with a title beside it", beside.ttft_seconds, "s", "lower"),
        Sample("with a title over alone", beside.ttft_seconds / alone.ttft_seconds, "times", "lower"),
        Sample("title answered after", title.total_seconds, "s", "lower"),
    ]


def salted_user(turn: Round) -> dict[str, object]:
    """The title request of a new session: its system prompt is what servers know titles by, so that stays."""
    title = turn.material.title()
    *before, last = title["messages"]
    return {**title, "messages": [*before, {**last, "content": f"{turn.salt('title')} {last['content']}"}]}


TITLE = Workload(
    "title",
    "a cold main request with a title request beside it, each on its own model",
    measure,
    contestants=(Contestant("localcode, two models", "localcode", two_models=True),),
    model="main",
)
