"""What a chosen token leads to: what it says is sent, and it may end its answer, open a call or be taken back."""

import time
from typing import Final

import structlog

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.announced_call import MOST_TOKENS
from services.worker.call_guard import MAX_REWINDS, hold_to_offered_tools, replay, rewind_point
from services.worker.finish import finish_message
from services.worker.generation import Generation
from services.worker.kv_pool import KvPool
from services.worker.llama import LlamaModel
from services.worker.outbox import Outbox
from services.worker.requests import Requests

_LINE_END: Final = b"\n"
_log = structlog.get_logger(__name__)


class Consequences:
    """Follows the answers of an engine, whose thread alone uses it."""

    def __init__(self, requests: Requests, model: LlamaModel, pool: KvPool, outbox: Outbox) -> None:
        self._requests, self._model, self._pool, self._outbox = requests, model, pool, outbox

    def say(self, generation: Generation, token: int, logprob: pb.TokenLogprob | None) -> None:
        """Sends what the latest token adds to its answer; the next is held to the tools that were offered.

        A step may be computing the token meanwhile: no cells are touched.
        """
        self._outbox.add_deltas(generation, generation.answer.feed(token, self._model.piece(token), logprob))
        if generation.call_grammar:
            hold_to_offered_tools(generation)

    def settle(self, generation: Generation) -> bool:
        """Does what the latest token calls for now that it was said; false if the next one does not just follow it."""
        if self._rewind_misnamed_call(generation):
            return False
        if generation.is_complete:
            self.finish_complete(generation)
            return False
        return _LINE_END not in self._model.piece(generation.tokens[-1]) or not self._make_announced_call(generation)

    def finish_complete(self, generation: Generation) -> None:
        """Ends an answer that has a reason to end other than that its model says so."""
        is_stopped = generation.answer.is_done
        self._finish(generation, pb.FINISH_REASON_STOP if is_stopped else pb.FINISH_REASON_LENGTH)

    def end(self, generation: Generation) -> None:
        """Ends an answer whose model says that it has ended; one that announces a call goes on with that call."""
        if not self._make_announced_call(generation):
            self._finish(generation, pb.FINISH_REASON_STOP)

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

    def _rewind_misnamed_call(self, generation: Generation) -> bool:
        """Takes an answer back to where it began to call a tool that was not offered; nothing of it was sent yet."""
        misnamed = generation.answer.misnamed_call if generation.call_grammar else ""
        if not misnamed or generation.rewind_count >= MAX_REWINDS or not self._pool.forks:
            return False
        generated = generation.tokens[generation.prompt_token_count :]
        point = rewind_point([self._model.piece(token) for token in generated], misnamed)
        if point is None:
            return False
        kept_count, written = point
        generation.rewind(kept_count, self._model.piece)
        self._pool.truncate(generation.sequence_id, generation.computed_count)
        generation.guessed_count = 0
        generation.sampler.constrain(generation.call_grammar, written)
        _log.info("misnamed_call_rewound", request_id=generation.request_id, token_count=len(generated) - kept_count)
        return True

    def _finish(self, generation: Generation, reason: "pb.FinishReason.ValueType") -> None:
        deltas = generation.answer.finish(ended_by_model=reason == pb.FINISH_REASON_STOP)
        self._outbox.add_deltas(generation, deltas)
        if reason == pb.FINISH_REASON_STOP and generation.answer.has_tool_calls:
            reason = pb.FINISH_REASON_TOOL_CALLS
        finish = finish_message(generation, reason, now=time.monotonic())
        self._outbox.add(generation, pb.GenerateResponse(finish=finish))
        self._requests.end(generation)
