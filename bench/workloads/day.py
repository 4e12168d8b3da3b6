"""A day of sessions, two at once, with restarts in between: how many tokens are computed that had been before."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.client import Timing
from bench.day_plan import lanes, parts
from bench.servers.target import Target
from bench.traces import Recorded
from bench.trie import TokenTrie
from bench.workload import DETAIL, PEER, Contestant, Round, Sample, Workload

_AT_ONCE: Final = 2
_GOAL: Final = 1.05
_SEED: Final = 7


@dataclass(frozen=True)
class Served:
    """A request of the day, and its answer."""

    hour: int
    recorded: Recorded
    timing: Timing


async def _restart_worker(target: Target) -> Target:
    """A server that is one process is restarted as a whole."""
    if target.parts is None:
        assert target.restart
        return await target.restart()
    await target.parts.restart_worker()
    return target


async def _restart_index(target: Target) -> Target:
    if target.parts:
        await target.parts.restart_index()
    return target


async def _swap_models(target: Target) -> Target:
    if target.parts:
        await target.parts.swap_models()
    return target


_EVENTS: Final[tuple[tuple[str, Callable[[Target], Awaitable[Target]]], ...]] = (
    ("after a restart of the worker", _restart_worker),
    ("after a restart of Redis", _restart_index),
    ("after a model swap", _swap_models),
    ("after another restart of the worker", _restart_worker),
)
"""What happens between one part of the day and the next. A server without a Redis or a second model has none there."""
_HOURS: Final = ("at first", *(name for name, _ in _EVENTS))


async def measure(target: Target, turn: Round) -> list[Sample]:
    """Every session in order, mixed with the others; then counts what is distinct with the server's own tokenizer."""
    planned = [parts(lane, len(_HOURS)) for lane in lanes(turn.material.day(), _AT_ONCE, seed=_SEED)]
    served: list[Served] = []
    for hour in range(len(_HOURS)):
        if hour:
            target = await _EVENTS[hour - 1][1](target)
        served += await _serve_hour(target, hour, [lane[hour] for lane in planned])
    return await summary(target, served)


async def _serve_hour(target: Target, hour: int, wanted: Sequence[Sequence[Recorded]]) -> list[Served]:
    async def serve(lane: Sequence[Recorded]) -> list[Served]:
        return [Served(hour, one, await target.chat(one.body, one.headers)) for one in lane]

    return [one for lane in await asyncio.gather(*map(serve, wanted)) for one in lane]


async def summary(target: Target, served: Sequence[Served]) -> list[Sample]:
    """Counts of the whole day, and by part of it.

    A prompt's tokens must be computed once, and its last one each time. Answers are a part of what is distinct because
    a conversation that goes on holds them.
    """
    prefilled = sum(one.timing.prefilled_tokens for one in served)
    samples = [
        Sample("requests", len(served), ""),
        Sample("tokens sent", sum(one.timing.prompt_tokens for one in served), "tokens"),
        Sample("tokens prefilled", prefilled, "tokens", "lower"),
        *(_prefilled(name, [one for one in served if one.hour == hour]) for hour, name in enumerate(_HOURS)),
        Sample("sum of TTFT", sum(one.timing.ttft_seconds for one in served), "s", "lower"),
    ]
    new: Sequence[int | None] = [None] * len(served)
    if target.tokenize:
        new, whole = await _distinct(target, served)
        prompts = sum(new)
        samples += [
            Sample("distinct tokens of all prompts", prompts, "tokens"),
            Sample("distinct tokens of prompts and answers", whole, "tokens"),
            Sample("allowed: 1.05 of those + 1 a request", _GOAL * (whole + len(served)), "tokens"),
            Sample("prefilled over distinct + 1 a request", prefilled / (whole + len(served)), "times", "lower"),
            Sample("the same without answers", prefilled / (prompts + len(served)), "times", "lower"),
        ]
    return samples + [_detail(number, *one) for number, one in enumerate(zip(served, new, strict=True), 1)]


async def _distinct(target: Target, served: Sequence[Served]) -> tuple[list[int], int]:
    """By request, nodes that it added to the trie of all prompts; and of all, with what was said behind them."""
    assert target.tokenize
    prompts, whole, new = TokenTrie(), TokenTrie(), []
    for one in served:
        tokens = await target.tokenize(one.recorded.body)
        said = await target.tokenize_text(one.timing.text) if target.tokenize_text and one.timing.text else []
        new.append(prompts.add(tokens))
        whole.add([*tokens, *said])
    return new, len(whole)


def _prefilled(name: str, served: Sequence[Served]) -> Sample:
    return Sample(f"prefilled {name}", sum(one.timing.prefilled_tokens for one in served), "tokens", "lower")


def _detail(number: int, one: Served, new: int | None) -> Sample:
    """What a request prefilled, kept with the results."""
    prompt = f"of {one.timing.prompt_tokens} tokens" + ("" if new is None else f", {new} of them new")
    name = f"{number:02} {_HOURS[one.hour]}: {one.recorded.scenario} {one.recorded.kind}, {prompt}"
    return Sample(name, one.timing.prefilled_tokens, DETAIL)


DAY = Workload(
    "day",
    "a day of sessions, two at once, with two restarts of the worker, one of Redis, and a model swap (llama-server: "
    "the two restarts)",
    measure,
    contestants=(Contestant("localcode", "localcode", swaps_models=True), PEER),
    restarts=True,
)
