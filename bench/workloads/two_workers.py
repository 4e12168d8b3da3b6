"""Sessions at once over two workers of one model: what of their prompts is computed twice, and what mains wait for."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from bench.client import Timing
from bench.servers.target import Target
from bench.traces import Recorded
from bench.trie import TokenTrie
from bench.workload import Contestant, Round, Sample, Workload

Send = Callable[[Recorded], Awaitable[None]]


@dataclass
class Answers:
    """All requests with what became of them, in the order in which they were sent."""

    target: Target
    sent: list[tuple[Recorded, Timing]] = field(default_factory=list)

    async def send(self, recorded: Recorded) -> None:
        """Sends a request and waits for its answer."""
        timing = Timing()
        self.sent.append((recorded, timing))
        await self.target.chat(recorded.body, recorded.headers, timing)

    def of(self, *kinds: str) -> list[Timing]:
        """What became of the requests of some kinds."""
        return [timing for recorded, timing in self.sent if recorded.kind in kinds]


async def measure(target: Target, turn: Round) -> list[Sample]:
    """All sessions from an empty cache, each as fast as it is answered."""
    answers = Answers(target)
    await asyncio.gather(*(play(session, answers.send) for session in turn.material.sessions_at_once()))
    timings = [timing for _, timing in answers.sent]
    cached = sum(timing.cached_tokens for timing in timings)
    mains, background = answers.of("main"), answers.of("title", "compaction")
    samples = [
        Sample("requests", len(timings), ""),
        Sample("tokens sent", sum(timing.prompt_tokens for timing in timings), "tokens"),
        Sample("tokens prefilled", sum(timing.prefilled_tokens for timing in timings), "tokens", "lower"),
        Sample("tokens found", cached, "tokens", "higher"),
        Sample("sum of TTFT of main requests", sum(timing.ttft_seconds for timing in mains), "s", "lower"),
        Sample("longest wait of a main request", max(timing.waited_seconds for timing in mains), "s", "lower"),
        Sample("longest wait of a title or summary", max(timing.waited_seconds for timing in background), "s", "lower"),
    ]
    if target.tokenize:
        best = findable([await target.tokenize(recorded.body) for recorded, _ in answers.sent])
        samples.append(Sample("found by one worker that forgets nothing", best, "tokens"))
        samples.append(Sample("found, of what that one finds", 100 * cached / best, "%", "higher"))
    return samples


async def play(session: Sequence[Recorded], send: Send) -> None:
    """Sends a session as its client does: titles beside everything, subagents beside each other, the rest in turn."""
    beside = []
    for kind, requests in groupby(session, key=lambda one: one.kind):
        if kind == "title":
            beside.append(asyncio.create_task(_in_turn(list(requests), send)))
        elif kind == "sub":
            await asyncio.gather(*(_in_turn(agent, send) for agent in _by_session(requests)))
        else:
            await _in_turn(list(requests), send)
    await asyncio.gather(*beside)


def findable(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that one worker with endless memory would find of these prompts: all but the last of each at most."""
    trie = TokenTrie()
    return sum(min(len(tokens) - trie.add(tokens), len(tokens) - 1) for tokens in prompts)


def _by_session(requests: Iterator[Recorded]) -> list[list[Recorded]]:
    agents: dict[str, list[Recorded]] = {}
    for one in requests:
        agents.setdefault(one.headers.get("x-session-id", ""), []).append(one)
    return list(agents.values())


async def _in_turn(requests: Sequence[Recorded], send: Send) -> None:
    for one in requests:
        await send(one)


TWO_WORKERS = Workload(
    "two_workers",
    "two sessions, subagents, titles and a summary at once over two workers of one model",
    measure,
    contestants=(Contestant("localcode, two workers", "localcode", workers=2),),
)
