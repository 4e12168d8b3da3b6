"""What it costs to move KV state: copies in the engine's thread, the way to the disk and back, and streams meanwhile.

The disk is that of a cache service with a Valkey, in processes of their own as in `localcode up`.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from bench.kv_rig import Rig, open_rig
from services.worker.blocks import BLOCK_TOKENS
from tests.fakes.worker_engine import Said, chat

T = TypeVar("T")
_CACHE_TYPES: Final = ("f16", "q8_0")
_TOKENS_BEFORE: Final = 8  # of a stream, until it is in its stride
_REPEATS: Final = 3
_GOAL_BYTES_PER_SECOND: Final = 1e9
_GOAL_PAUSE_SECONDS: Final = 0.02
_GOAL_RATE: Final = 0.97


class Longest:
    """Notes the longest call of a function."""

    def __init__(self, function: Callable[..., T]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The function, timed."""
        started = time.perf_counter()
        try:
            return self._function(*arguments, **options)
        finally:
            self.seconds = max(self.seconds, time.perf_counter() - started)


@dataclass(frozen=True)
class Copied:
    """Copies of a conversation, block by block, each way."""

    size_bytes: int
    save_seconds: float
    restore_seconds: float
    longest_seconds: float
    """Of one block, either way."""


@dataclass(frozen=True)
class Streamed:
    """A stream, and what its steps had to wait for state that was moved."""

    said: Said
    pause_seconds: float
    saved_between: tuple[float, float] | None = None
    """When saving began, and when all of it was stored."""

    @property
    def rate(self) -> float:
        """Tokens a second of the whole stream."""
        return self.rate_between(self.said.times[0], self.said.times[-1])

    def rate_between(self, start: float, end: float) -> float:
        """Tokens a second of a part of it."""
        times = [at for at in self.said.times if start <= at <= end]
        return (len(times) - 1) / max(times[-1] - times[0], 1e-9) if len(times) > 1 else 0.0

    @property
    def longest_gap_seconds(self) -> float:
        """Between two tokens in their stride: the longest step."""
        return max(self.said.gaps[_TOKENS_BEFORE:])


def kv(options: argparse.Namespace) -> None:
    """Rates of moving KV state, and what they cost streams, beside the goals."""
    for cache_type in _CACHE_TYPES:
        asyncio.run(_measure(options, cache_type))


async def _measure(options: argparse.Namespace, cache_type: str) -> None:
    count = options.prompt_tokens // BLOCK_TOKENS * BLOCK_TOKENS
    cells = count + options.answer_tokens + 4 * BLOCK_TOKENS
    async with open_rig(options.model, cache_type, cells=cells) as rig:
        tokens = rig.tokens(count, "copies")
        sequence_id = await rig.computed(tokens)
        copied = await rig.on_engine(lambda: _copied(rig, sequence_id, count))
        began, stored = await rig.park(sequence_id, tokens)
        print(_copies(cache_type, count, copied))
        fetch_seconds = await rig.restored(tokens)
        print(
            f"{cache_type}: to the disk, sealed, {_rate(copied.size_bytes, stored - began)}; back into cells "
            f"{_rate(copied.size_bytes, fetch_seconds)}",
            flush=True,
        )
        await rig.on_engine(rig.pool.drop_parked)
        rounds = [await _streams(rig, options, count, number) for number in range(options.rounds)]
        print(_cost(cache_type, count, options.answer_tokens, rounds), flush=True)


def _copied(rig: Rig, sequence_id: int, count: int) -> Copied:
    """Copies all blocks out and back in, some times; medians. In the engine's thread."""
    kv, pool = rig.loaded.context.kv, rig.pool
    starts = range(0, count, BLOCK_TOKENS)
    save, restore = Longest(kv.save), Longest(kv.restore)
    saving, restoring = [], []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        blocks = [save(sequence_id, start, start + BLOCK_TOKENS) for start in starts]
        saving.append(time.perf_counter() - began)
        kv.remove(sequence_id)
        began = time.perf_counter()
        for start, data in zip(starts, blocks, strict=True):
            restore(sequence_id, data, start, start + BLOCK_TOKENS)
        restoring.append(time.perf_counter() - began)
    assert pool.lengths()[sequence_id] == count
    longest = max(save.seconds, restore.seconds)
    return Copied(sum(map(len, blocks)), statistics.median(saving), statistics.median(restoring), longest)


async def _streams(rig: Rig, options: argparse.Namespace, count: int, number: int) -> tuple[Streamed, Streamed]:
    """A stream beside a conversation that stays in its cells, then one while that is saved."""
    tokens = rig.tokens(count, f"streams {number}")
    sequence_id = await rig.computed(tokens)
    without = await _stream(rig, options.answer_tokens)
    return without, await _stream(rig, options.answer_tokens, (sequence_id, tokens))


async def _stream(rig: Rig, answer_tokens: int, saves: tuple[int, Sequence[int]] | None = None) -> Streamed:
    request = chat("Tell me a story that goes on and on.", max_tokens=answer_tokens)
    request.sampling.ignore_eos = True
    pause: Any = Longest(rig.pool.housekeeping)
    generation = rig.running.submit(request)
    while generation.generated_count < _TOKENS_BEFORE:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    rig.pool.housekeeping = pause  # type: ignore[method-assign]  # the engine looks it up at each step
    between = await rig.park(*saves) if saves else None
    said = await asyncio.to_thread(rig.running.wait, generation)
    del rig.pool.housekeeping
    return Streamed(said, pause.seconds, between)


def _copies(cache_type: str, count: int, copied: Copied) -> str:
    saves, restores = (copied.size_bytes / seconds for seconds in (copied.save_seconds, copied.restore_seconds))
    return (
        f"{cache_type}: {count} tokens of {copied.size_bytes / count:,.0f} bytes; engine thread copies out "
        f"{saves / 1e9:.2f} GB/s, in {restores / 1e9:.2f} GB/s "
        f"({_verdict(min(saves, restores) >= _GOAL_BYTES_PER_SECOND)}: {_GOAL_BYTES_PER_SECOND / 1e9:.0f}); "
        f"longest copy of a whole block {1000 * copied.longest_seconds:.1f} ms"
    )


def _cost(cache_type: str, count: int, answer_tokens: int, rounds: Sequence[tuple[Streamed, Streamed]]) -> str:
    """What saving costs a stream: its whole, and the part of it until all is on the disk."""
    ratios = [saving.rate / without.rate for without, saving in rounds]
    meanwhile = [saving.rate_between(*(saving.saved_between or (0, 0))) / without.rate for without, saving in rounds]
    pause = max(saving.pause_seconds for _, saving in rounds)
    plain, saving = (max(one[index].longest_gap_seconds for one in rounds) for index in (0, 1))
    return (
        f"{cache_type}: {count} tokens saved while a stream decodes {answer_tokens}: its rate over that without "
        f"{_spread(ratios)} ({_verdict(statistics.median(ratios) >= _GOAL_RATE)}: {_GOAL_RATE}); until all is stored "
        f"{_spread(meanwhile)}; longest pause of a step {1000 * pause:.1f} ms "
        f"({_verdict(pause <= _GOAL_PAUSE_SECONDS)}: {1000 * _GOAL_PAUSE_SECONDS:.0f}); longest step "
        f"{1000 * saving:.0f} ms, without {1000 * plain:.0f}; {statistics.median(w.rate for w, _ in rounds):.1f} t/s"
    )


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def _rate(size_bytes: int, seconds: float) -> str:
    return f"{size_bytes / seconds / 1e9:.2f} GB/s ({seconds:.2f} s)"


def _verdict(is_reached: bool) -> str:
    return "goal reached" if is_reached else "goal missed"
