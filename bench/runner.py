"""Runs a workload: every contestant in turn, round after round."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from bench.launch import Machinery, Unavailable
from bench.material import Material
from bench.workload import Contestant, Round, Sample, Workload

Rounds = dict[str, list[list[Sample]]]
"""By contestant, what each round measured."""
Tell = Callable[[str], None]


async def run_workload(
    workload: Workload, machinery: Machinery, material: Material, *, rounds: int, only: Sequence[str], tell: Tell
) -> Rounds:
    """Measures all contestants that can take part; those that can't are told of."""
    contestants = []
    for contestant in workload.contestants:
        if only and contestant.program not in only:
            continue
        try:
            machinery.check(contestant, workload)
        except Unavailable as reason:
            tell(f"{contestant.name} is left out: {reason}")
        else:
            contestants.append(contestant)
    measured: Rounds = {contestant.name: [] for contestant in contestants}
    run = _one_at_a_time if workload.fresh else _taking_turns
    await run(workload, contestants, machinery, [Round(number, material) for number in range(rounds)], measured, tell)
    return measured


async def _one_at_a_time(
    workload: Workload,
    contestants: Sequence[Contestant],
    machinery: Machinery,
    rounds: Sequence[Round],
    measured: Rounds,
    tell: Tell,
) -> None:
    for turn in rounds:
        for contestant in contestants:
            tell(f"round {turn.number + 1}: {contestant.name}")
            async with machinery.started(contestant, workload) as target:
                if workload.prepare:
                    await workload.prepare(target, turn.material)
                measured[contestant.name].append(await workload.measure(target, turn))


async def _taking_turns(
    workload: Workload,
    contestants: Sequence[Contestant],
    machinery: Machinery,
    rounds: Sequence[Round],
    measured: Rounds,
    tell: Tell,
) -> None:
    """All live at once, but only one has work at any time: idle, neither of them computes."""
    async with AsyncExitStack() as stack:
        targets = {}
        for contestant in contestants:
            tell(f"starting {contestant.name}")
            target = targets[contestant.name] = await stack.enter_async_context(machinery.started(contestant, workload))
            if workload.prepare:
                await workload.prepare(target, rounds[0].material)
        for turn in rounds:
            for name, target in targets.items():
                tell(f"round {turn.number + 1}: {name}")
                measured[name].append(await workload.measure(target, turn))
