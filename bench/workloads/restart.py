"""The next turn of a session after the server was restarted."""

import time
from dataclasses import replace
from typing import Final

from bench.client import Timing
from bench.servers.target import Target
from bench.traces import Recorded, with_other_end
from bench.workload import OURS, PEER, Contestant, Round, Sample, Workload

_SLOT: Final = 0
_FILE: Final = "session.bin"
_ALLOWED_SECONDS: Final = 1.0
"""Beside the time that the new tokens take."""


async def measure(target: Target, turn: Round) -> list[Sample]:
    """All turns but the last one, a restart in the same directory, then the last turn."""
    assert target.restart
    *earlier, last = turn.material.turns()
    before = [await _ask(target, recorded) for recorded in earlier]
    if target.saves_slots:
        await _act_on_slot(target, "save")
    target = await target.restart()
    by_hand_seconds = await _act_on_slot(target, "restore") if target.saves_slots else 0.0
    after = await _ask(target, last)
    again = await _ask(target, replace(last, body=with_other_end(last.body, "Again:")))
    samples = after_restart(before, after, again, by_hand_seconds=by_hand_seconds)
    if target.saves_slots:
        samples.append(Sample("of the TTFT, restoring by hand", by_hand_seconds, "s", "lower"))
    return samples


def after_restart(before: list[Timing], after: Timing, again: Timing, *, by_hand_seconds: float = 0.0) -> list[Sample]:
    """What the turn after the restart took, and what it may take: a second, and the time of its new tokens.

    How fast the server prefills is measured twice: on the session's first request, which is cold, and behind the whole
    session, where the new tokens lie and each of them attends to all that, with the turn asked again in other words.
    """
    first, known = before[0], before[-1].prompt_tokens
    rate = first.prefilled_tokens / first.ttft_seconds
    new = after.prompt_tokens - known
    ttft_seconds = by_hand_seconds + after.ttft_seconds
    allowed_seconds = _ALLOWED_SECONDS + new / rate
    rate_there = again.prefilled_tokens / again.ttft_seconds
    allowed_there_seconds = _ALLOWED_SECONDS + new / rate_there
    return [
        Sample("TTFT after the restart", ttft_seconds, "s", "lower"),
        Sample("allowed: 1 s + new tokens over prefill rate", allowed_seconds, "s"),
        Sample("TTFT over allowed", ttft_seconds / allowed_seconds, "times", "lower"),
        Sample("prefill rate before", rate, "tokens/s", "higher"),
        Sample("allowed with the rate at that depth", allowed_there_seconds, "s"),
        Sample("TTFT over that", ttft_seconds / allowed_there_seconds, "times", "lower"),
        Sample("prefill rate at that depth, nothing restarted", rate_there, "tokens/s", "higher"),
        Sample("prompt tokens", after.prompt_tokens, "tokens"),
        Sample("tokens new in this turn", new, "tokens"),
        Sample("tokens restored", after.cached_tokens, "tokens", "higher"),
        Sample("tokens prefilled", after.prefilled_tokens, "tokens", "lower"),
    ]


async def _ask(target: Target, recorded: Recorded) -> Timing:
    """Asks; where a slot is saved by hand, that one must be used."""
    body = {**recorded.body, "id_slot": _SLOT} if target.saves_slots else recorded.body
    return await target.chat(body, recorded.headers)


async def _act_on_slot(target: Target, action: str) -> float:
    """Saves or restores the slot; how many seconds that took."""
    started = time.perf_counter()
    answer = await target.http.post(f"/slots/{_SLOT}", params={"action": action}, json={"filename": _FILE})
    answer.raise_for_status()
    return time.perf_counter() - started


RESTART = Workload(
    "restart",
    "the next turn of a session after a restart of the server",
    measure,
    contestants=(OURS, PEER, Contestant("llama-server, slot saved by hand", "llama-server", saves_slots=True)),
    restarts=True,
)
