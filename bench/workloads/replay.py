"""Whole sessions, request after request: how much of each prompt is computed again."""

from bench.servers.target import Target
from bench.trie import TokenTrie
from bench.workload import Round, Sample, Workload


async def measure(target: Target, turn: Round) -> list[Sample]:
    """Every request of every session in order; what is distinct is counted with the server's own tokenizer."""
    samples, trie = [], TokenTrie()
    ttft_seconds, prefilled, sent, count = 0.0, 0, 0, 0
    for number, recorded in enumerate(turn.material.sessions(), 1):
        timing = await target.chat(recorded.body, recorded.headers)
        name = f"{number:02} {recorded.scenario} {recorded.kind}"
        samples.append(Sample(f"{name}: TTFT", timing.ttft_seconds, "s", "lower"))
        samples.append(Sample(f"{name}: cached", timing.cached_tokens, "tokens", "higher"))
        samples.append(Sample(f"{name}: prefilled", timing.prefilled_tokens, "tokens", "lower"))
        ttft_seconds += timing.ttft_seconds
        prefilled += timing.prefilled_tokens
        sent += timing.prompt_tokens
        count += 1
        if target.tokenize:
            trie.add(await target.tokenize(recorded.body))
    totals = [
        Sample("sum of TTFT", ttft_seconds, "s", "lower"),
        Sample("tokens sent", sent, "tokens"),
        Sample("tokens prefilled", prefilled, "tokens", "lower"),
    ]
    if target.tokenize:
        totals.append(Sample("distinct tokens of all prompts", len(trie), "tokens"))
        totals.append(
            Sample("prefilled over distinct + 1 a request", prefilled / (len(trie) + count), "times", "lower")
        )
    return totals + samples


REPLAY = Workload("replay", "sessions replayed in order, from an empty cache", measure)
