"""Prefill, one stream and four streams: what any server does all day, alone and with other conversations cached."""

import asyncio

from bench.material import Material
from bench.servers.target import Target
from bench.sessions import explanation_request, text_request
from bench.stats import rate_together
from bench.workload import Round, Sample, Workload

_CONVERSATION_TOKENS = 4096


async def measure(target: Target, turn: Round) -> list[Sample]:
    """Each kind of work in turn, nothing else running."""
    sizes = turn.sizes
    prompt = await target.chat(text_request(sizes.prefill_tokens, salt=turn.salt("prefill")))
    one = await target.chat(explanation_request(0, max_tokens=sizes.answer_tokens))
    four = await asyncio.gather(
        *(target.chat(explanation_request(number, max_tokens=sizes.answer_tokens)) for number in range(1, 5))
    )
    return [
        Sample("prefill", prompt.prefilled_tokens / prompt.ttft_seconds, "tokens/s", "higher"),
        Sample("decode, 1 stream", one.decode_tokens_per_second, "tokens/s", "higher"),
        Sample("decode, 4 streams together", rate_together(four), "tokens/s", "higher"),
    ]


async def cache_others(target: Target, material: Material) -> None:
    """Leaves conversations behind that have nothing in common with what is measured."""
    total = material.sizes.other_tokens
    size = min(_CONVERSATION_TOKENS, total // 4)
    for number in range(total // size):
        await target.chat(text_request(size, salt=f"[other {number}]", max_tokens=4))


STEADY = Workload("steady", "prefill and decode, nothing else cached", measure)
CACHED = Workload(
    "cached", "prefill and decode with 32k tokens of other conversations cached", measure, cache_others, fresh=False
)
