"""How much of a model's answers another one would have guessed: what it could save as a draft, were its steps free."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.llama import LlamaContext, Row
from tests.fakes.worker_engine import Said, running_worker

_SEQUENCE: Final = 0
_CONTEXT: Final = 8192
_DRAFT_LENGTHS: Final = (2, 4, 8)


def compare(model: Path, draft: Path, requests: Mapping[str, Sequence[pb.GenerateRequest]]) -> None:
    """Lets the model answer, and asks the draft behind every token of that for the next one, at temperature 0."""
    with running_worker(model, context=_CONTEXT) as running:
        answers = {what: [running.say(request) for request in asked] for what, asked in requests.items()}
    with running_worker(draft, context=_CONTEXT) as running:
        context = running.loaded.context
        for what, said in answers.items():
            hits = [running.engine.call(partial(_hits, context, one)).result() for one in said]
            print(_summary(what, hits), flush=True)


def accepted_per_draft(hits: Sequence[bool], length: int) -> float:
    """How many of `length` guessed tokens are right on average, if each draft begins where the last one went wrong.

    `hits` says of each token whether it would have been guessed behind all those before it.
    """
    start = draft_count = accepted_count = 0
    while start < len(hits):
        draft = hits[start : start + length]
        right_count = (*draft, False).index(False)
        accepted_count += right_count
        draft_count += 1
        start += right_count + 1  # the model's own token follows what was right
    return accepted_count / draft_count if draft_count else 0.0


def _hits(context: LlamaContext, said: Said) -> list[bool]:
    prompt, answer = said.generation.tokens[: said.generation.prompt_token_count], said.tokens
    context.clear()
    guess = _next(context, 0, prompt)
    hits = []
    for offset, token in enumerate(answer):
        hits.append(guess == token)
        guess = _next(context, len(prompt) + offset, [token])
    context.clear()
    return hits


def _next(context: LlamaContext, position: int, tokens: Sequence[int]) -> int:
    context.decode([Row(_SEQUENCE, position, tokens, 1)])
    return int(context.logits(0).argmax())


def _summary(what: str, hits: Sequence[Sequence[bool]]) -> str:
    right_count, count = sum(map(sum, hits)), sum(map(len, hits))
    drafts = ", ".join(
        f"{sum(accepted_per_draft(one, length) for one in hits) / len(hits):.2f} of {length}"
        for length in _DRAFT_LENGTHS
    )
    share = f"{right_count} of {count} tokens as the draft says ({right_count / count:.0%})"
    return f"{what}: {share}; right of each draft: {drafts}"
