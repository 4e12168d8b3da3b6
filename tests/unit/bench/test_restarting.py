"""What the workloads with restarts make of what they measured."""

from bench.client import Timing
from bench.servers.target import Target
from bench.traces import Recorded
from bench.workloads.day import Served, summary
from bench.workloads.restart import after_restart


def timing(prompt: int, *, cached: int = 0, ttft: float = 1.0, text: str = "") -> Timing:
    return Timing(
        started_at=5.0, arrivals=[5.0 + ttft], ended_at=9.0, prompt_tokens=prompt, cached_tokens=cached, text=text
    )


def test_a_turn_may_take_a_second_and_the_time_of_its_new_tokens() -> None:
    before = [timing(1000, ttft=10.0), timing(1500, cached=1000)]
    after, again = timing(1700, cached=1490, ttft=2.5), timing(1701, cached=1551, ttft=3.0)
    samples = {s.name: s.value for s in after_restart(before, after, again, by_hand_seconds=0.5)}
    assert samples == {
        "TTFT after the restart": 3.0,
        "allowed: 1 s + new tokens over prefill rate": 3.0,
        "TTFT over allowed": 1.0,
        "prefill rate before": 100.0,
        "allowed with the rate at that depth": 5.0,
        "TTFT over that": 0.6,
        "prefill rate at that depth, nothing restarted": 50.0,
        "prompt tokens": 1700,
        "tokens new in this turn": 200,
        "tokens restored": 1490,
        "tokens prefilled": 210,
    }


async def test_a_day_counts_what_was_prefilled_against_what_is_distinct() -> None:
    async def tokenize(body: dict) -> list[int]:
        return [ord(letter) for letter in body["prompt"]]

    async def tokenize_text(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def served(hour: int, prompt: str, cached: int, answer: str) -> Served:
        recorded = Recorded("s", "main", {"prompt": prompt}, {})
        return Served(hour, recorded, timing(len(prompt), cached=cached, text=answer))

    day = [served(0, "abcd", 0, "ef"), served(1, "abcdefgh", 4, "i"), served(4, "abx", 2, "")]
    samples = {s.name: s.value for s in await summary(Target(None, {}, tokenize, tokenize_text=tokenize_text), day)}
    assert samples["tokens prefilled"] == 4 + 4 + 1
    assert samples["prefilled after a restart of the worker"] == 4
    assert samples["distinct tokens of all prompts"] == 9
    assert samples["distinct tokens of prompts and answers"] == 10
    assert samples["prefilled over distinct + 1 a request"] == 9 / 13
    assert samples["02 after a restart of the worker: s main, of 8 tokens, 4 of them new"] == 4
