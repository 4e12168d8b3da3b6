import pytest
from rich.console import Console

from cli.cache_explain import explanations, reason, sources
from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1 import state_pb2


def differing(**place: object) -> pb.CacheExplanation:
    return pb.CacheExplanation(miss=pb.CACHE_MISS_DIFFERS, place=pb.PromptPlace(token_index=1234, **place))


@pytest.mark.parametrize(
    ("cache", "text"),
    [
        (pb.CacheExplanation(), ""),
        (pb.CacheExplanation(miss=pb.CACHE_MISS_UNKNOWN), "no prompt that begins so is remembered"),
        (pb.CacheExplanation(miss=pb.CACHE_MISS_DROPPED), "its state is kept no longer"),
        (differing(in_tools=True), "differs at token 1,234, in the tools"),
        (differing(), "differs at token 1,234, in the template's text"),
        (differing(message_index=0, role=pb.ROLE_SYSTEM), "differs at token 1,234, in message 0 (system)"),
        (
            differing(message_index=2, role=pb.ROLE_TOOL, excerpt="b", known_excerpt="a"),
            "differs at token 1,234, in message 2 (tool): 'a' became 'b'",
        ),
    ],
)
def test_a_reason_is_told_in_a_few_words(cache: pb.CacheExplanation, text: str) -> None:
    assert reason(cache) == text


def test_places_without_tokens_are_left_out() -> None:
    assert sources(pb.CacheSources(parked_token_count=1200, disk_token_count=7)) == "parked 1,200, disk 7"


def test_a_remedy_is_told_once_below_the_requests() -> None:
    cache = differing(message_index=0, role=pb.ROLE_SYSTEM, excerpt="[red]b")
    cache.remedy, cache.repeated_token_count, cache.repeated_seconds = "Move [models.x] it.", 5000, 50.0
    told = [
        state_pb2.ExplainedRequest(
            request_id=f"req_{name}", model="m", request_class=pb.REQUEST_CLASS_MAIN, cache=cache
        )
        for name in "ab"
    ]
    console = Console(width=250)
    with console.capture() as shown:
        console.print(explanations(told))
    text = shown.get()
    assert text.count("Move [models.x] it.") == 1
    assert text.count("5,000 computed again (50.0 s)") == 2
    assert "[red]b" in text
    assert "main" in text
