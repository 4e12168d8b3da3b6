"""Lets a day pass over a store with one policy or the other, and counts what was found and what was written."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from bench.policy.contestants import Adaptive, Contestant, PlainLru
from bench.policy.day import Day
from bench.policy.store import SimulatedStore, StateSize
from bench.policy.virtual_time import run_in_virtual_time
from bench.trie import TokenTrie
from bench.workload import Sample

PolicyName = Literal["adaptive", "plain LRU"]
POLICIES: Final[tuple[PolicyName, ...]] = ("adaptive", "plain LRU")
SHARES: Final = (0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Limits:
    """What a day holds, whatever the policy."""

    sent_count: int
    """Tokens of all prompts."""
    findable_count: int
    """Those that a store without bounds would find."""
    distinct_count: int
    """Tokens of all prompts and answers, those of common beginnings once."""

    @classmethod
    def of(cls, day: Day) -> "Limits":
        """Counts a day."""
        trie, sent, findable = TokenTrie(), 0, 0
        for asked in day.requests:
            length = len(asked.prompt)
            findable += min(length - 1, length - trie.add(asked.prompt))
            trie.add(asked.prompt + asked.answer)
            sent += length
        return cls(sent, findable, len(trie))


@dataclass(frozen=True)
class Outcome:
    """What a policy made of a day."""

    found_count: int
    """Tokens of prompts that the store had."""
    written_bytes: int


def simulate(day: Day, policy: PolicyName, *, budget_bytes: int, size: StateSize) -> Outcome:
    """Lets a day pass, in virtual time."""
    return run_in_virtual_time(_pass(day, policy, budget_bytes, size))


async def _pass(day: Day, policy: PolicyName, budget_bytes: int, size: StateSize) -> Outcome:
    clock = asyncio.get_running_loop().time
    store = SimulatedStore(budget_bytes, size, clock=clock, by_use_alone=policy == "plain LRU")
    worker: Contestant = PlainLru(store, size) if policy == "plain LRU" else Adaptive(store, size, clock=clock)
    found_count = 0
    for index, asked in enumerate(day.requests):
        await asyncio.sleep(asked.at - clock())
        if index in day.restarts:
            await worker.restart()
        found_count += await worker.begin(asked)
        await asyncio.sleep(asked.answered_at - clock())
        await worker.end(asked)
    await worker.restart()
    return Outcome(found_count, store.written_bytes)


def compare(
    days: Sequence[Day], *, shares: Sequence[float] = SHARES, size: StateSize | None = None
) -> dict[str, list[list[Sample]]]:
    """Tries both policies on each day with each budget; samples by policy, in one round."""
    size = size or StateSize()
    samples: dict[str, list[Sample]] = {policy: [] for policy in POLICIES}
    for day in days:
        limits = Limits.of(day)
        for policy in POLICIES:
            samples[policy].append(Sample(f"{day.name} day: requests", len(day.requests), ""))
            samples[policy].append(Sample(f"{day.name} day: tokens sent", limits.sent_count, "tokens"))
            samples[policy].append(Sample(f"{day.name} day: could be found", limits.findable_count, "tokens"))
        distinct_bytes = limits.distinct_count * size.bytes_per_token
        for share in shares:
            what = f"{day.name} day, {share:.0%} of {distinct_bytes / 1e9:.1f} GB"
            for policy in POLICIES:
                outcome = simulate(day, policy, budget_bytes=int(share * distinct_bytes), size=size)
                found_percent = 100 * outcome.found_count / limits.findable_count
                samples[policy] += [
                    Sample(f"{what}: found of what could be", found_percent, "%", "higher"),
                    Sample(f"{what}: missed", limits.findable_count - outcome.found_count, "tokens", "lower"),
                    Sample(f"{what}: written", outcome.written_bytes / 1e6, "MB", "lower"),
                ]
    return {policy: [taken] for policy, taken in samples.items()}
