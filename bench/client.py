"""One streamed chat completion, timed."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Timing:
    """When the parts of an answer came, in seconds since the request."""

    ttft_seconds: float = 0.0
    total_seconds: float = 0.0
    gaps_seconds: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = ""
    text: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first, over the time they took."""
        return (self.completion_tokens - 1) / max(self.total_seconds - self.ttft_seconds, 1e-9)


async def chat(client: httpx.AsyncClient, body: dict[str, Any], headers: dict[str, str] | None = None) -> Timing:
    """Sends a request to `/v1/chat/completions` and reads the stream to its end."""
    timing = Timing()
    started = last = time.perf_counter()
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise RuntimeError(chunk["error"])
            now = time.perf_counter()
            if _take(timing, chunk):
                if not timing.ttft_seconds:
                    timing.ttft_seconds = now - started
                else:
                    timing.gaps_seconds.append(now - last)
                last = now
    timing.total_seconds = time.perf_counter() - started
    return timing


def _take(timing: Timing, chunk: dict[str, Any]) -> bool:
    """Notes what a chunk says; whether it shows a part of the answer."""
    if usage := chunk.get("usage"):
        timing.prompt_tokens = usage["prompt_tokens"]
        timing.completion_tokens = usage["completion_tokens"]
        timing.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    shows = False
    for choice in chunk["choices"]:
        delta = choice["delta"]
        timing.finish_reason = choice.get("finish_reason") or timing.finish_reason
        timing.text += delta.get("content") or ""
        for call in delta.get("tool_calls") or ():
            function = call["function"]
            if call.get("id"):
                timing.calls.append({"name": function["name"], "arguments": ""})
            timing.calls[-1]["arguments"] += function.get("arguments") or ""
        shows = shows or bool(delta.get("content") or delta.get("tool_calls") or delta.get("reasoning_content"))
    return shows
