"""Benchmarks of a running server: `python -m bench streams|title [--url URL]`."""

import argparse
import asyncio
import statistics
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx

from bench.client import chat
from bench.sessions import main_request, title_request

_TASK: Final = "Two unit tests fail. Find out why and fix the code."


async def streams(client: httpx.AsyncClient, options: argparse.Namespace) -> None:
    """Total decode rate of N streams at once, over that of one."""
    ratios = []
    for _ in range(options.rounds):
        alone = await chat(client, _counting(options.model, 0))
        started = asyncio.get_running_loop().time()
        together = await asyncio.gather(*(chat(client, _counting(options.model, n)) for n in range(options.streams)))
        seconds = asyncio.get_running_loop().time() - started - statistics.median(t.ttft_seconds for t in together)
        total = sum(timing.completion_tokens for timing in together) / seconds
        ratios.append(total / alone.decode_tokens_per_second)
        print(
            f"1 stream {alone.decode_tokens_per_second:6.1f} t/s   {options.streams} streams {total:6.1f} t/s",
            flush=True,
        )
    _report(f"{options.streams} streams over 1", ratios)


async def title(client: httpx.AsyncClient, options: argparse.Namespace) -> None:
    """TTFT of a cold first main request with a title request beside it, over that alone."""
    ratios = []
    for _ in range(options.rounds):
        alone = await chat(client, _cold_main())
        main, beside = await asyncio.gather(chat(client, _cold_main()), chat(client, title_request(_TASK)))
        ratios.append(main.ttft_seconds / alone.ttft_seconds)
        print(
            f"alone {alone.ttft_seconds:5.1f} s   with a title {main.ttft_seconds:5.1f} s   "
            f"(title after {beside.total_seconds:.1f} s, {main.prompt_tokens} tokens, {main.cached_tokens} cached)",
            flush=True,
        )
    _report("TTFT with a title over alone", ratios)


BENCHES: Final[dict[str, Callable[[httpx.AsyncClient, argparse.Namespace], Awaitable[None]]]] = {
    "streams": streams,
    "title": title,
}


def _counting(model: str, number: int) -> dict[str, Any]:
    content = f"Count from {number} to 200 in words, one a line."
    messages = [{"role": "user", "content": content}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 128}


def _cold_main() -> dict[str, Any]:
    """Its first line is new, so that nothing of it is cached."""
    request = main_request(directory="/srv/project", task=_TASK)
    request["messages"][0]["content"] = f"{uuid.uuid4()}\n{request['messages'][0]['content']}"
    return request


def _report(what: str, ratios: list[float]) -> None:
    print(f"{what}: min {min(ratios):.2f}, median {statistics.median(ratios):.2f}, max {max(ratios):.2f}")


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("--url", default="http://127.0.0.1:4242")
    parser.add_argument("--model", default="small")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    async with httpx.AsyncClient(base_url=options.url, timeout=1800, trust_env=False) as client:
        await BENCHES[options.bench](client, options)


if __name__ == "__main__":
    asyncio.run(_main())
