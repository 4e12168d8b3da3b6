"""What becomes of a computed chunk: tokens are sampled behind it, and what they say is sent."""

import time
from collections.abc import Sequence

import structlog

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.announced_call import MOST_TOKENS
from services.worker.call_guard import MAX_REWINDS, hold_to_offered_tools, replay, rewind_point
from services.worker.finish import finish_message
from services.worker.generation import Generation
from services.worker.kv_pool import KvPool
from services.worker.llama import LlamaContext, LlamaModel
from services.worker.outbox import Outbox
from services.worker.requests import Requests
from services.worker.sampling import token_logprob
from services.worker.scheduler import Chunk
from services.worker.speculation.speculator import Speculator

_log = structlog.get_logger(__name__)


class Advancer:
    """Takes requests further by what a step computed for them. Only the engine thread uses it."""

    def __init__(
        self, requests: Requests, model: LlamaModel, context: LlamaContext, pool: KvPool, speculator: Speculator,
        outbox: Outbox,
    ) -> None:  # fmt: skip
        self._requests, self._model, self._context, self._pool = requests, model, context, pool
        self._speculator, self._outbox = speculator, outbox

    def advance(self, chunk: Chunk[Generation], outputs: range) -> None:
        """Notes what was computed, and samples if that was all that is known."""
        generation = chunk.generation
        generation.computed_count += chunk.known_count
        if generation.computed_count in generation.checkpoints:
            self._pool.checkpoint(generation.sequence_id, generation.tokens[: generation.computed_count])
        if generation.pending_count:
            self._outbox.report_progress(generation, pb.PHASE_PREFILL, generation.computed_count)
        else:
            self._take_tokens(generation, chunk.draft, outputs)

    def finish_complete(self) -> None:
        """Ends resumed answers whose last token was generated before their worker was lost."""
        for generation in [one for one in self._requests.waiting if one.is_complete]:
            is_stopped = generation.answer.is_done
            self._finish(generation, pb.FINISH_REASON_STOP if is_stopped else pb.FINISH_REASON_LENGTH)

    def _take_tokens(self, generation: Generation, draft: Sequence[int], outputs: range) -> None:
        """Samples a token behind the known ones, and another behind each guess that turns out to be right."""
        generation.guessed_count = len(draft)
        generation.speculation.begin_draft(len(draft))
        for guess, output in zip((*draft, None), outputs, strict=True):
            length = len(generation.tokens)
            was_right = self._sample(generation, output, guess)
            if not (was_right and generation.is_running and len(generation.tokens) > length):
                break
            generation.computed_count += 1
            generation.guessed_count -= 1
        if draft:
            self._speculator.observe(generation)
        self._requests.drop_guesses(generation)

    def _sample(self, generation: Generation, output: int, guess: int | None) -> bool:
        """Chooses the next token and does what it says; returns whether it is the one that was guessed."""
        logits = self._context.logits(output)
        token = generation.sampler.sample(logits)
        was_right = token == guess
        if was_right:
            generation.speculation.confirm()
        if generation.first_token_at is None:
            generation.first_token_at = time.monotonic()
        if token in self._model.end_tokens:
            if self._make_announced_call(generation):
                return False
            self._finish(generation, pb.FINISH_REASON_STOP)
            return was_right
        logprob = None
        if generation.top_logprobs is not None:
            logprob = token_logprob(logits, token, top_count=generation.top_logprobs, piece=self._model.piece)
        generation.tokens.append(token)
        self._outbox.add_deltas(generation, generation.answer.feed(token, self._model.piece(token), logprob))
        if generation.call_grammar:
            hold_to_offered_tools(generation)
            self._rewind_misnamed_call(generation)
        if generation.answer.is_done:
            self._finish(generation, pb.FINISH_REASON_STOP)
        elif generation.generated_count >= generation.max_tokens:
            self._finish(generation, pb.FINISH_REASON_LENGTH)
        elif b"\n" in self._model.piece(token) and self._make_announced_call(generation):
            return False
        return was_right

    def _make_announced_call(self, generation: Generation) -> bool:
        """Lets an answer whose line, or end, is the announcement of a call go on with that call."""
        answer = generation.answer
        if generation.open_announced_call is None or answer.has_tool_calls or answer.is_in_call:
            return False
        if generation.generated_count > MOST_TOKENS:
            generation.open_announced_call = None  # nor need its text be read at every line any more
            return False
        generated = generation.tokens[generation.prompt_token_count :]
        opening = generation.open_announced_call(b"".join(map(self._model.piece, generated)).decode(errors="replace"))
        if not opening or generation.generated_count + 2 * len(opening) > generation.max_tokens:
            return False
        generation.open_announced_call = None
        for token in opening:
            self._outbox.add_deltas(generation, replay(generation, token, self._model.piece(token)))
        _log.info("announced_call_opened", request_id=generation.request_id)
        return True

    def _rewind_misnamed_call(self, generation: Generation) -> None:
        """Takes an answer back to where it began to call a tool that was not offered; nothing of it was sent yet."""
        misnamed = generation.answer.misnamed_call
        if not misnamed or generation.rewind_count >= MAX_REWINDS or not self._pool.forks:
            return
        generated = generation.tokens[generation.prompt_token_count :]
        point = rewind_point([self._model.piece(token) for token in generated], misnamed)
        if point is None:
            return
        kept_count, written = point
        generation.rewind(kept_count, self._model.piece)
        self._pool.truncate(generation.sequence_id, generation.computed_count)
        generation.guessed_count = 0
        generation.sampler.constrain(generation.call_grammar, written)
        _log.info("misnamed_call_rewound", request_id=generation.request_id, token_count=len(generated) - kept_count)

    def _finish(self, generation: Generation, reason: "pb.FinishReason.ValueType") -> None:
        deltas = generation.answer.finish(ended_by_model=reason == pb.FINISH_REASON_STOP)
        self._outbox.add_deltas(generation, deltas)
        if reason == pb.FINISH_REASON_STOP and generation.answer.has_tool_calls:
            reason = pb.FINISH_REASON_TOOL_CALLS
        finish = finish_message(generation, reason, now=time.monotonic())
        self._outbox.add(generation, pb.GenerateResponse(finish=finish))
        self._requests.end(generation)
