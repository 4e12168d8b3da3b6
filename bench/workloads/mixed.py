"""What an open stream suffers while somebody else's long prompt is read, and what the prompt suffers."""

import asyncio
from contextlib import suppress
from typing import Final

from bench.client import Timing
from bench.servers.target import Target
from bench.sessions import explanation_request
from bench.stats import gaps_within, quantile
from bench.traces import salted
from bench.workload import Round, Sample, Workload

_STREAM_TOKENS: Final = 4096
"""More than the stream can have when the prompt is done."""
_TOKENS_BEFORE: Final = 8


async def measure(target: Target, turn: Round) -> list[Sample]:
    """A long prompt alone, then another one of the same length beside an open stream."""
    main = turn.material.main(max_tokens=1)
    alone = await target.chat(salted(main, turn.salt("alone")))
    stream = Timing()
    decoding = asyncio.create_task(target.chat(explanation_request(7, max_tokens=_STREAM_TOKENS), None, stream))
    try:
        await _until_arrived(decoding, stream, _TOKENS_BEFORE)
        prompt = await target.chat(salted(main, turn.salt("beside")))
        await _until_arrived(decoding, stream, len(stream.arrivals) + 1)
    finally:
        decoding.cancel()
        with suppress(asyncio.CancelledError):
            await decoding
    first = prompt.started_at + prompt.ttft_seconds
    gaps = gaps_within(stream.arrivals, prompt.started_at, first)
    if not gaps:
        raise RuntimeError("the stream ended before the prompt was prefilled")
    return [
        Sample("gap of the stream, p50", quantile(gaps, 0.5) * 1000, "ms", "lower"),
        Sample("gap of the stream, p99", quantile(gaps, 0.99) * 1000, "ms", "lower"),
        Sample("longest gap of the stream", max(gaps) * 1000, "ms", "lower"),
        Sample("tokens of the stream meanwhile", len(gaps), "", "higher"),
        Sample("TTFT of the prompt", prompt.ttft_seconds, "s", "lower"),
        Sample("TTFT of the prompt alone", alone.ttft_seconds, "s", "lower"),
        Sample("prompt tokens prefilled", prompt.prefilled_tokens, "tokens", "lower"),
    ]


async def _until_arrived(decoding: asyncio.Task[Timing], stream: Timing, count: int) -> None:
    while len(stream.arrivals) < count and not decoding.done():  # noqa: ASYNC110 the stream is filled elsewhere
        await asyncio.sleep(0.005)
    if decoding.done():
        await decoding


MIXED = Workload("mixed", "a stream decodes while another request's prompt of 7k tokens is prefilled", measure)
