from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bench.launch import Unavailable
from bench.material import Material
from bench.runner import run_workload
from bench.sizes import QUICK
from bench.workload import OURS, PEER, Contestant, Round, Sample, Workload

MATERIAL = Material(QUICK, {})


class Machinery:
    """Starts names instead of servers, and notes what happens."""

    def __init__(self, *, absent: tuple[Contestant, ...] = ()) -> None:
        self.events: list[str] = []
        self._absent = absent

    def check(self, contestant: Contestant, workload: Workload) -> None:
        if contestant in self._absent:
            raise Unavailable("it is ill")

    @asynccontextmanager
    async def started(self, contestant: Contestant, workload: Workload) -> AsyncIterator[str]:
        self.events.append(f"+{contestant.program}")
        yield contestant.program
        self.events.append(f"-{contestant.program}")


async def run(machinery: Any, *, fresh: bool, only: tuple[str, ...] = ()) -> tuple[Any, list[str]]:
    told: list[str] = []

    async def measure(target: Any, turn: Round) -> list[Sample]:
        machinery.events.append(f"{target} {turn.number}")
        return [Sample("x", turn.number, "")]

    workload = Workload("w", "", measure, fresh=fresh)
    measured = await run_workload(workload, machinery, MATERIAL, rounds=2, only=only, tell=told.append)
    return measured, told


async def test_fresh_servers_run_alone_and_contestants_alternate() -> None:
    machinery = Machinery()
    measured, _ = await run(machinery, fresh=True)
    assert machinery.events == [
        *("+localcode", "localcode 0", "-localcode", "+llama-server", "llama-server 0", "-llama-server"),
        *("+localcode", "localcode 1", "-localcode", "+llama-server", "llama-server 1", "-llama-server"),
    ]
    assert measured == {name: [[Sample("x", 0, "")], [Sample("x", 1, "")]] for name in ("localcode", "llama-server")}


async def test_others_live_at_once_and_take_turns() -> None:
    machinery = Machinery()
    await run(machinery, fresh=False)
    assert machinery.events == [
        *("+localcode", "+llama-server"),
        *("localcode 0", "llama-server 0", "localcode 1", "llama-server 1"),
        *("-llama-server", "-localcode"),
    ]


@pytest.mark.parametrize("fresh", [True, False])
async def test_who_cannot_take_part_is_left_out_with_a_word(fresh: bool) -> None:
    measured, told = await run(Machinery(absent=(PEER,)), fresh=fresh)
    assert list(measured) == ["localcode"]
    assert "llama-server is left out: it is ill" in told


async def test_only_some_may_be_wanted() -> None:
    measured, _ = await run(Machinery(absent=(OURS,)), fresh=True, only=("llama-server",))
    assert {name: len(rounds) for name, rounds in measured.items()} == {"llama-server": 2}
