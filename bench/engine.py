"""Measures a worker's engine inside this process: `python -m bench.engine overhead|gaps|speculation|acceptance|kv`.

`overhead` runs a tiny model and reports what a step takes beside llama.cpp; the others want `--model FILE`.
"""

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from bench import acceptance as draft_acceptance
from bench.kv import kv
from localcode.inference.v1 import inference_pb2 as pb
from services.worker.cost import StepShape
from services.worker.scheduler import MIN_PREFILL_TOKENS
from services.worker.speculation import NO_SPECULATION, SpeculationOptions
from tests.fakes.scripted_model import write_scripted_model
from tests.fakes.scripts import CHAT_SCRIPT
from tests.fakes.worker_engine import Running, Said, chat, running_worker

_CODE: Final = '''\
class Cart:
    """What a customer wants to buy."""

    def __init__(self, owner: str, currency: str = "EUR") -> None:
        self.owner = owner
        self.currency = currency
        self.lines: list[tuple[str, int, float]] = []

    def add(self, article: str, count: int, price: float) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        self.lines.append((article, count, price))

    def remove(self, article: str) -> None:
        self.lines = [line for line in self.lines if line[0] != article]

    def total(self) -> float:
        return sum(count * price for _, count, price in self.lines)

    def describe(self) -> str:
        text = "\\n".join(f"{count} x {article}: {count * price:.2f}" for article, count, price in self.lines)
        return f"{self.owner} buys\\n{text}\\ntotal {self.total():.2f} {self.currency}"
'''
_EDIT: Final = (
    f"Rename the method `total` to `sum_of_prices` everywhere. Reply with the whole file.\n```python\n{_CODE}```"
)
_CHATS: Final = (
    "Explain to a beginner how a compiler differs from an interpreter.",
    "Which arguments speak for and against working from home?",
    "Tell me how bread is baked, from flour to loaf.",
)


class Stopwatch:
    """Adds up the time spent in some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, on the watch."""

        def run(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - started
                self.calls += 1

        return run


def overhead(options: argparse.Namespace) -> None:
    """What Python takes of a step, for some numbers of streams and lengths of prompts."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_scripted_model(Path(folder) / "tiny.gguf", CHAT_SCRIPT, context=32768)
        for words in (10, 1400):
            for streams in (1, 4, 8):
                for kind in (NO_SPECULATION, SpeculationOptions("auto", 16)):
                    _overhead_of(model, streams, words, kind, with_profile=options.profile)


def _overhead_of(model: Path, streams: int, words: int, kind: SpeculationOptions, *, with_profile: bool) -> None:
    with running_worker(model, context=16384, slots=8, kv_cells=98304) as running:
        engine, inside, steps = running.engine, Stopwatch(), Stopwatch()
        generations = [
            running.submit(chat(f"{number} Never stop" + " and go on" * words, max_tokens=500), kind)
            for number in range(streams)
        ]
        while not all(generation.is_decoding for generation in generations):
            time.sleep(0.001)
        profile = cProfile.Profile()
        step: Any = profile_of(engine._step, profile) if with_profile else engine._step
        context: Any = running.loaded.context
        for generation in generations:
            sampler: Any = generation.sampler
            sampler.sample = inside.timed(sampler.sample)
        context.decode, context.synchronise = inside.timed(context.decode), inside.timed(context.synchronise)
        setattr(engine, "_step", steps.timed(step))  # noqa: B010  # the engine looks it up at each step
        for generation in generations:
            running.wait(generation)
    mean = (steps.seconds - inside.seconds) / steps.calls
    allowed = 0.0005 + 0.0003 * streams
    print(
        f"guesses {kind.kind}, {streams} streams of {generations[0].prompt_token_count} tokens: "
        f"{1000 * mean:.2f} ms a step beside llama.cpp (allowed {1000 * allowed:.1f}), {steps.calls} steps"
    )
    if with_profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(14)


def profile_of(function: Callable[[], None], profile: cProfile.Profile) -> Callable[[], None]:
    """The same function, profiled in whatever thread runs it."""

    def run() -> None:
        profile.runcall(function)

    return run


def gaps(options: argparse.Namespace) -> None:
    """The gaps of a stream while another's long prompt is prefilled."""
    with running_worker(options.model, context=16384) as running:
        long = chat(
            "Read this.\n" + "\n".join(f"{n}. {_CODE}" for n in range(options.prompt_tokens // 250)), max_tokens=2
        )
        endless = chat(_CHATS[0], max_tokens=8000)
        endless.sampling.ignore_eos = True
        stream = running.submit(endless)
        while stream.generated_count < 8:
            time.sleep(0.01)
        began, depth = time.monotonic(), stream.computed_count
        prompt = running.submit(long)
        said = running.wait(prompt)
        ended = time.monotonic()
        running.engine.cancel(stream)
        times = [at for at in running.times_of(stream) if began <= at <= ended]
        between = sorted(after - before for before, after in pairwise(times))
        p99 = between[int(0.99 * (len(between) - 1))]
        rate = prompt.prompt_token_count / said.finish.timings.prefill_seconds
        allowed = _allowed_rate(running, prompt.prompt_token_count, depth)
        print(
            f"{prompt.prompt_token_count} tokens prefilled beside a stream at {rate:.1f} t/s, {rate / allowed:.2f} of "
            f"what the learned costs allow; gaps: median {statistics.median(between):.3f}, p99 {p99:.3f}, longest "
            f"{between[-1]:.3f} s ({len(between)} gaps)",
            flush=True,
        )
        alone = running.say(_other(long)).finish.timings.prefill_seconds
        print(f"the same alone: {prompt.prompt_token_count / alone:.1f} t/s")


def _allowed_rate(running: Running, count: int, depth: int) -> float:
    """Tokens a second of a prompt whose steps beside one stream, a token deeper each time, take all of the budget."""
    cost, start, seconds = running.engine.cost, 0, 0.0
    budget, most = running.settings.step_budget_ms / 1000, running.settings.batch_tokens - 1
    while start < count:
        beside = StepShape.of_row(depth, 1, 1)
        fitting = cost.tokens_within(
            budget, beside=beside, start=start, at_least=MIN_PREFILL_TOKENS, at_most=min(count - start, most)
        )
        is_last = start + fitting == count
        seconds += cost.expected_seconds(beside + StepShape.of_row(start, fitting, int(is_last))) or 0.0
        start, depth = start + fitting, depth + 1
    return count / seconds


def _other(request: pb.GenerateRequest) -> pb.GenerateRequest:
    """The same with another beginning, so that nothing of it is cached."""
    changed = pb.GenerateRequest()
    changed.CopyFrom(request)
    changed.chat.messages[0].content[0].text = "Anew. " + request.chat.messages[0].content[0].text
    return changed


def speculation(options: argparse.Namespace) -> None:
    """Decode rates with guesses over those without, alternating, in copies and in chats."""
    kind = SpeculationOptions(options.kind, 16)
    draft = {"draft_path": options.draft} if options.draft else {}
    with running_worker(options.model, context=8192, **draft) as running:
        _print_curve(running)
        _compare(running, "copy-heavy edit", [chat(_EDIT, max_tokens=400)], kind, options.rounds)
        _compare(running, "ordinary chat", [chat(text, max_tokens=200) for text in _CHATS], kind, options.rounds)


def acceptance(options: argparse.Namespace) -> None:
    """How much of the model's answers the draft would have guessed, whether or not guessing pays here."""
    requests = {
        "copy-heavy edit": [chat(_EDIT, max_tokens=400)],
        "ordinary chat": [chat(text, max_tokens=200) for text in _CHATS],
    }
    draft_acceptance.compare(options.model, options.draft, requests)


def _compare(
    running: Running, what: str, requests: list[pb.GenerateRequest], kind: SpeculationOptions, rounds: int
) -> None:
    ratios = []
    for _ in range(rounds):
        for request in requests:
            plain, guessed = running.say(request, NO_SPECULATION), running.say(request, kind)
            ratios.append(_rate(guessed) / _rate(plain))
            usage = guessed.finish.usage
            print(
                f"{what}: {_rate(plain):.1f} t/s plain, {_rate(guessed):.1f} with guesses "
                f"({usage.accepted_draft_token_count} right, {usage.rejected_draft_token_count} wrong of "
                f"{usage.completion_token_count}; same text: {plain.tokens == guessed.tokens})",
                flush=True,
            )
    print(f"{what}: median {statistics.median(ratios):.2f}, min {min(ratios):.2f}, max {max(ratios):.2f}")


def _rate(said: Said) -> float:
    return (len(said.tokens) - 1) / said.seconds


def _print_curve(running: Running) -> None:
    cost = running.engine.cost
    known = ", ".join(f"{size}: {1000 * seconds:.0f}" for size, seconds in cost.seconds_by_size.items())
    print(f"measured ms of a step by tokens: {known}; an output {1000 * cost.output_seconds:.2f}")


BENCHES: Final[dict[str, Callable[[argparse.Namespace], None]]] = {
    "overhead": overhead,
    "gaps": gaps,
    "speculation": speculation,
    "acceptance": acceptance,
    "kv": kv,
}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--kind", default="auto", choices=("auto", "lookup", "draft"))
    parser.add_argument("--prompt-tokens", type=int, default=7000)
    parser.add_argument("--answer-tokens", type=int, default=256, help="of the streams beside which kv is saved")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.bench != "overhead" and options.model is None:
        parser.error(f"{options.bench} needs --model")
    if options.bench == "acceptance" and options.draft is None:
        parser.error("acceptance needs --draft")
    BENCHES[options.bench](options)


if __name__ == "__main__":
    main()
