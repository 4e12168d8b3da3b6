import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cli.guardian import Guardian
from cli.supervisor import ChildEnded, ChildSpec, next_delay_seconds, supervised

SLEEP = "import time; time.sleep(60)"


def child(name: str, code: str, *, stops_last: bool = False) -> ChildSpec:
    return ChildSpec(name, (sys.executable, "-c", code), dict(os.environ), stops_last=stops_last)


async def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_the_delay_doubles_up_to_half_a_minute() -> None:
    delays, delay = [], 0.0
    for _ in range(8):
        delay = next_delay_seconds(delay, alive_seconds=1)
        delays.append(delay)
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_child_that_lived_for_a_minute_starts_over() -> None:
    assert next_delay_seconds(16, alive_seconds=60) == 0.5


async def test_a_killed_child_is_started_again() -> None:
    events: list[ChildEnded] = []
    with Guardian() as guardian:
        async with supervised([child("a", SLEEP)], guardian=guardian, report=events.append) as supervisor:
            await eventually(lambda: supervisor.process_id("a") is not None)
            first = supervisor.process_id("a")
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: supervisor.process_id("a") not in (None, first))
    assert [(event.cause, event.restart_delay_seconds) for event in events] == [("killed by SIGKILL", 0.5)]


async def test_one_child_is_stopped_and_started_again_while_the_other_runs_on() -> None:
    events: list[ChildEnded] = []
    with Guardian() as guardian:
        specs = [child("a", SLEEP), child("b", SLEEP)]
        async with supervised(specs, guardian=guardian, report=events.append) as supervisor:
            await eventually(lambda: all(supervisor.process_id(name) for name in "ab"))
            first, other = supervisor.process_id("a") or 0, supervisor.process_id("b")
            await supervisor.stop("a")
            assert (is_alive(first), supervisor.process_id("a"), supervisor.process_id("b")) == (False, None, other)
            supervisor.start(specs[0])
            await eventually(lambda: supervisor.process_id("a") not in (None, first))
    assert events == []


async def test_leaving_ends_every_child() -> None:
    with Guardian() as guardian:
        specs = [child("a", SLEEP), child("b", SLEEP)]
        async with supervised(specs, guardian=guardian, report=lambda event: None) as supervisor:
            await eventually(lambda: all(supervisor.process_id(name) for name in "ab"))
            pids = [supervisor.process_id(name) or 0 for name in "ab"]
        assert not any(is_alive(pid) for pid in pids)


async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = f"import pathlib, signal; signal.signal(15, signal.SIG_IGN); pathlib.Path({str(ready)!r}).touch(); {SLEEP}"
    with Guardian() as guardian:
        specs = [child("stubborn", code)]
        async with supervised(specs, guardian=guardian, report=lambda event: None, grace_seconds=0.3) as supervisor:
            await eventually(ready.exists)
            pid = supervisor.process_id("stubborn") or 0
        assert not is_alive(pid)


async def test_what_others_need_ends_last_and_before_what_it_needs_itself(tmp_path: Path) -> None:
    log = tmp_path / "log"
    delays = {"index": 0, "store": 0.3, "user": 0.6}

    def note(name: str) -> str:
        return (
            f"import pathlib, signal, sys, time\nlog = pathlib.Path({str(log)!r})\n"
            f"def end(*_):\n    time.sleep({delays[name]})\n"
            f"    log.open('a').write('{name} '); sys.exit(0)\n"
            f"signal.signal(15, end)\nlog.with_suffix('.{name}').touch()\ntime.sleep(60)"
        )

    with Guardian() as guardian:
        specs = [child(name, note(name), stops_last=name != "user") for name in delays]
        async with supervised(specs, guardian=guardian, report=lambda event: None):
            await eventually(lambda: all(log.with_suffix(f".{name}").exists() for name in delays))
    assert log.read_text() == "user store index "


async def test_the_processes_a_child_has_started_end_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        f"import pathlib, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); "
        f"pathlib.Path({str(note)!r}).write_text(str(p.pid)); {SLEEP}"
    )
    with Guardian() as guardian:
        async with supervised([child("parent", code)], guardian=guardian, report=lambda event: None):
            await eventually(lambda: note.exists() and note.read_text() != "")
    await eventually(lambda: not is_alive(int(note.read_text())))


PARENT = """
import asyncio, os, pathlib, sys
from cli.guardian import Guardian
from cli.supervisor import ChildSpec, supervised

async def main(directory, scratch):
    code = f"import os, pathlib, time; pathlib.Path({directory!r}, str(os.getpid())).touch(); time.sleep(60)"
    specs = [ChildSpec(name, (sys.executable, "-c", code), dict(os.environ)) for name in "abc"]
    with Guardian() as guardian:
        guardian.own_directory(scratch)
        async with supervised(specs, guardian=guardian, report=print):
            await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_child_and_no_socket_directory_outlives_a_killed_parent(tmp_path: Path, number: int) -> None:
    (pids := tmp_path / "pids").mkdir()
    (scratch := tmp_path / "scratch").mkdir()
    parent = subprocess.Popen(  # noqa: ASYNC220 the parent is killed below, whatever happens
        [sys.executable, "-c", PARENT, str(pids), str(scratch)]
    )
    try:
        await eventually(lambda: len(list(pids.iterdir())) == 3)
        children = [int(path.name) for path in pids.iterdir()]
        assert all(is_alive(pid) for pid in children)
    finally:
        parent.send_signal(number)
        parent.wait()
    await eventually(lambda: not any(is_alive(pid) for pid in children) and not scratch.exists())
