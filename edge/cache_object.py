"""What became of a prompt in the caches, as the extension `timings.cache` says it. Pure."""

from typing import Any, Final

from localcode.inference.v1 import inference_pb2 as pb

_MISSES: Final = {
    pb.CACHE_MISS_UNKNOWN: "unknown",
    pb.CACHE_MISS_DIFFERS: "differs",
    pb.CACHE_MISS_DROPPED: "dropped",
}
_ROLES: Final = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
}


def cache_object(usage: pb.Usage, cache: pb.CacheExplanation) -> dict[str, Any]:
    """Tokens by the place that their state came from, and why the rest was missing."""
    places = usage.cached_from
    return {
        "running": places.running_token_count,
        "parked": places.parked_token_count,
        "ram": places.ram_token_count,
        "disk": places.disk_token_count,
        "remote": places.remote_token_count,
        "restore_ms": cache.restore_seconds * 1000,
        "miss": _miss(cache),
    }


def _miss(cache: pb.CacheExplanation) -> dict[str, Any] | None:
    reason = _MISSES.get(cache.miss)
    if reason is None:
        return None
    miss: dict[str, Any] = {
        "reason": reason,
        "known_tokens": cache.known_token_count,
        "repeated_tokens": cache.repeated_token_count,
        "repeated_ms": cache.repeated_seconds * 1000,
    }
    if cache.HasField("place"):
        miss["place"] = _place(cache.place)
    if cache.remedy:
        miss["remedy"] = cache.remedy
    return miss


def _place(place: pb.PromptPlace) -> dict[str, Any]:
    return {
        "token": place.token_index,
        "message": place.message_index if place.HasField("message_index") else None,
        "part": "tools" if place.in_tools else _ROLES.get(place.role, "template"),
        "excerpt": place.excerpt,
        "known_excerpt": place.known_excerpt,
    }
