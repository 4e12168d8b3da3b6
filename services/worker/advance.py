"""Takes requests further by what a step computed for them: tokens are chosen behind it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.consequences import Consequences
from services.worker.generation import Generation
from services.worker.kv_pool import KvPool
from services.worker.llama import LlamaContext, LlamaModel
from services.worker.outbox import Outbox
from services.worker.requests import Requests
from services.worker.sampling import token_logprob
from services.worker.scheduler import Chunk
from services.worker.speculation.speculator import Speculator


@dataclass(frozen=True)
class _Chosen:
    """A token of an answer that has yet to be said."""

    generation: Generation
    token: int
    logprob: pb.TokenLogprob | None


class Advancer:
    """Only the engine thread uses it.

    On a device that computes while this thread does something else, a token is said during the step that computes it.
    """

    def __init__(
        self, requests: Requests, model: LlamaModel, context: LlamaContext, pool: KvPool, speculator: Speculator,
        outbox: Outbox,
    ) -> None:  # fmt: skip
        self._requests, self._model, self._context, self._pool = requests, model, context, pool
        self._speculator, self._outbox = speculator, outbox
        self._consequences = Consequences(requests, model, pool, outbox)
        self.says_during_steps = False
        """Whether a token is said during the next step and not before it."""
        self._unsaid: list[_Chosen] = []

    def advance(self, chunk: Chunk[Generation], outputs: range) -> None:
        """Notes what was computed, and samples if that was all that is known."""
        generation = chunk.generation
        generation.computed_count += chunk.known_count
        generation.guessed_count = len(chunk.draft)
        if generation.computed_count in generation.checkpoints:
            self._pool.checkpoint(generation.sequence_id, generation.tokens[: generation.computed_count])
        if self._settle(generation):
            if generation.pending_count:
                self._outbox.report_progress(generation, pb.PHASE_PREFILL, generation.computed_count)
            else:
                self._take_tokens(generation, chunk.draft, outputs)
        self._requests.drop_guesses(generation)

    def say(self) -> bool:
        """Says the tokens that the step before chose, if that was left for now; whether there were any."""
        unsaid, self._unsaid = self._unsaid, []
        for chosen in unsaid:
            if not chosen.generation.is_cancelled:
                self._consequences.say(chosen.generation, chosen.token, chosen.logprob)
        return bool(unsaid)

    def forget(self) -> None:
        """Drops what has yet to be said."""
        self._unsaid.clear()

    def finish_complete(self) -> None:
        """Ends waiting answers whose last token was generated before they lost their worker, or their slot."""
        for generation in [one for one in self._requests.waiting if one.is_complete]:
            self._consequences.finish_complete(generation)

    def _settle(self, generation: Generation) -> bool:
        """Does what a token calls for that was said during the step; false if its logits are of no use then."""
        was_settled, generation.is_settled = generation.is_settled, True
        return was_settled or self._consequences.settle(generation)

    def _take_tokens(self, generation: Generation, draft: Sequence[int], outputs: range) -> None:
        """Samples a token behind the known ones, and another behind each guess that turns out to be right."""
        generation.speculation.begin_draft(len(draft))
        for guess, output in zip((*draft, None), outputs, strict=True):
            token = self._choose(generation, output)
            was_right = token == guess
            if was_right:
                generation.speculation.confirm()
            if not (self._follow(generation, token, output, may_wait=not draft) and was_right):
                break
            generation.computed_count += 1
            generation.guessed_count -= 1
        if draft:
            self._speculator.observe(generation)

    def _choose(self, generation: Generation, output: int) -> int:
        token = generation.sampler.sample(self._context.logits(output))
        if generation.first_token_at is None:
            generation.first_token_at = time.monotonic()
        return token

    def _follow(self, generation: Generation, token: int, output: int, *, may_wait: bool) -> bool:
        """Appends a token and does what it leads to; says whether the next one just follows it."""
        if token in self._model.end_tokens:
            self._consequences.end(generation)
            return False
        logprob = self._logprob(generation, token, output)
        generation.tokens.append(token)
        if self.says_during_steps and may_wait and generation.generated_count < generation.max_tokens:
            generation.is_settled = False
            self._unsaid.append(_Chosen(generation, token, logprob))
            return False
        self._consequences.say(generation, token, logprob)
        return self._consequences.settle(generation)

    def _logprob(self, generation: Generation, token: int, output: int) -> pb.TokenLogprob | None:
        if generation.top_logprobs is None:
            return None
        logits = self._context.logits(output)
        return token_logprob(logits, token, top_count=generation.top_logprobs, piece=self._model.piece)
