"""One streamed chat completion, timed. Every server is measured through this code."""

import json
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

Body = dict[str, Any]


@dataclass
class Timing:
    """When the parts of an answer came, in seconds of `time.perf_counter`, and what it said."""

    started_at: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    """When each chunk that shows a part of the answer came."""
    sizes: list[int] = field(default_factory=list)
    """How many characters each of them showed."""
    ended_at: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prompt_seconds: float = 0.0
    """How long the server worked on the prompt, as it says itself."""
    finish_reason: str = ""
    text: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)

    @property
    def ttft_seconds(self) -> float:
        """Until the first part of the answer; until the end where nothing of it can be shown."""
        return (self.arrivals[0] if self.arrivals else self.ended_at) - self.started_at

    @property
    def waited_seconds(self) -> float:
        """Before the server began with the prompt: in queues, and for the step of others that ran."""
        return max(self.ttft_seconds - self.prompt_seconds, 0.0)

    @property
    def total_seconds(self) -> float:
        """Until the end of the stream."""
        return self.ended_at - self.started_at

    @property
    def gaps_seconds(self) -> list[float]:
        """Between one part of the answer and the next."""
        return [later - earlier for earlier, later in pairwise(self.arrivals)]

    @property
    def prefilled_tokens(self) -> int:
        """Prompt tokens that had to be computed."""
        return self.prompt_tokens - self.cached_tokens

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first, over the time they took."""
        return (self.completion_tokens - 1) / max(self.total_seconds - self.ttft_seconds, 1e-9)


async def chat(
    client: httpx.AsyncClient, body: Body, headers: dict[str, str] | None = None, timing: Timing | None = None
) -> Timing:
    """Sends a request to `/v1/chat/completions` and reads the stream to its end.

    An answer that may not end by itself (`ignore_eos`) but does raises: rates over it would be of something else.
    A `timing` that is passed in is filled while the answer comes, so that others can watch it or stop in between.
    """
    timing = timing or Timing()
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    timing.started_at = time.perf_counter()
    async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise RuntimeError(chunk["error"])
            if size := take_chunk(timing, chunk):
                timing.arrivals.append(time.perf_counter())
                timing.sizes.append(size)
    timing.ended_at = time.perf_counter()
    if body.get("ignore_eos") and timing.completion_tokens < body["max_tokens"]:
        raise RuntimeError(f"the answer ended after {timing.completion_tokens} of {body['max_tokens']} tokens")
    return timing


def take_chunk(timing: Timing, chunk: dict[str, Any]) -> int:
    """Notes what a chunk says; how many characters of the answer it shows, at least one for a part of a call."""
    if usage := chunk.get("usage"):
        timing.prompt_tokens = usage["prompt_tokens"]
        timing.completion_tokens = usage["completion_tokens"]
        timing.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    timing.prompt_seconds = (chunk.get("timings") or {}).get("prompt_ms", timing.prompt_seconds * 1000) / 1000
    size = 0
    for choice in chunk.get("choices") or ():
        delta = choice["delta"]
        timing.finish_reason = choice.get("finish_reason") or timing.finish_reason
        timing.text += delta.get("content") or ""
        for call in delta.get("tool_calls") or ():
            function = call["function"]
            if call.get("id"):
                timing.calls.append({"name": function["name"], "arguments": ""})
            timing.calls[-1]["arguments"] += function.get("arguments") or ""
            size += max(1, len(function.get("arguments") or ""))
        size += len(delta.get("content") or "") + len(delta.get("reasoning_content") or "")
    return size
