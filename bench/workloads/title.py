"""A main request with the title request that OpenCode sends beside it, in the default two-model configuration."""

import asyncio
from typing import Final

from bench.servers.target import Target
from bench.traces import salted
from bench.workload import Contestant, Round, Sample, Workload

_WAITED: Final = "localcode_worker_turn_wait_seconds_total"


async def measure(target: Target, turn: Round) -> list[Sample]:
    """A cold main request with a title beside it, between two that are alone: what was said before is cached too."""
    main = turn.material.main()
    before = await target.chat(salted(main, turn.salt("before")))
    waited_before = await _waited_seconds(target)
    beside, title = await asyncio.gather(
        target.chat(salted(main, turn.salt("beside"))),
        target.chat(salted_user(turn)),
    )
    waited_seconds = await _waited_seconds(target) - waited_before
    after = await target.chat(salted(main, turn.salt("after")))
    alone_seconds = (before.ttft_seconds + after.ttft_seconds) / 2
    return [
        Sample("TTFT of a main request alone", alone_seconds, "s", "lower"),
        Sample("TTFT with a title beside it", beside.ttft_seconds, "s", "lower"),
        Sample("with a title over alone", beside.ttft_seconds / alone_seconds, "times", "lower"),
        Sample("with a title, longer by", beside.ttft_seconds - alone_seconds, "s", "lower"),
        Sample("steps of the main request waited for those of the title", waited_seconds, "s", "lower"),
        Sample("title answered after", title.total_seconds, "s", "lower"),
    ]


async def _waited_seconds(target: Target) -> float:
    assert target.counters
    return (await target.counters())[_WAITED]


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
