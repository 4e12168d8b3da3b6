"""gRPC for one model: translates calls to the engine and its events back; decides nothing itself."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import cached_property, partial
from typing import Any

from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceServicer
from services.shared.errors import InvalidRequest, ModelNotFound
from services.worker.answer import Answer, merged
from services.worker.call_guard import replay
from services.worker.candidates import Candidates
from services.worker.engine import Engine
from services.worker.explain import Explainer
from services.worker.generation import Event, Generation
from services.worker.llama import LlamaModel
from services.worker.prompts import BATCH_CLASSES, Prepared, Preparer
from services.worker.replay import Transcript
from services.worker.sampling import Sampler
from services.worker.scheduler import shared_length
from services.worker.speculation import SpeculationOptions
from services.worker.speculation.options import merge_options
from services.worker.stored_tier import StoredTier, Visit
from services.worker.tool_calls import Format
from services.worker.tool_gate import Need, ask, call_beginnings, conversation_about, decided


class Mailbox:
    """Takes batches of events from the engine thread to the event loop, one wake-up a step."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def post(self, events: list[tuple[Generation, Event]]) -> None:
        """Called by the engine thread."""
        self._loop.call_soon_threadsafe(_deliver, events)


def _deliver(events: list[tuple[Generation, Event]]) -> None:
    for generation, event in events:
        generation.deliver(event)


class InferenceServicer(InferenceServiceServicer):
    """Serves one model."""

    def __init__(
        self, engine: Engine, model: LlamaModel, preparer: Preparer, description: pb.ModelDescription, *,
        explainer: Explainer, speculation: SpeculationOptions, has_draft_model: bool,
        stored: StoredTier | None = None, has_tool_gate: bool = False,
    ) -> None:  # fmt: skip
        self._engine, self._model, self._preparer = engine, model, preparer
        self._description, self._explainer = description, explainer
        self._speculation, self._has_draft_model = speculation, has_draft_model
        self._candidates = Candidates(model.vocab_size)
        self._stored, self._has_tool_gate = stored, has_tool_gate

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncGenerator[pb.GenerateResponse]:
        """Streams one answer; leaving it, also cancelled, frees the slot."""
        self._check_model(request.model)
        need = await ask(request, self._answer_once) if self._has_tool_gate else Need.UNSURE
        async with aclosing(self._generate(decided(request, need), need)) as events:
            async for event in events:
                yield event

    def _answer_once(self, question: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse]:
        """Answers the gate's question, of which only what all of them begin with is kept."""
        return self._generate(question, Need.UNSURE, kept_beginning=self._gate_beginning)

    async def _generate(
        self, request: pb.GenerateRequest, need: Need, *, kept_beginning: Sequence[int] | None = None
    ) -> AsyncGenerator[pb.GenerateResponse]:
        arrived_at = time.monotonic()
        prepared, sampler = await asyncio.to_thread(self._prepare, request, need)
        visit = await self._visit(request, prepared)
        transcript = Transcript()
        async with (
            self._submitted(request, prepared, sampler, arrived_at, visit, kept_beginning) as (generation, events),
            self._explained(request, generation) as complete,
        ):
            yield self._admitted(prepared)
            while True:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                transcript.add(event.delta)
                if event.HasField("finish"):
                    await complete(event.finish)
                if event.HasField("finish") and _is_whole(request, generation, event.finish):
                    token_ids = generation.tokens[generation.prompt_token_count :]
                    self._preparer.remember(request, prepared, transcript, token_ids)
                if event.HasField("finish"):
                    self._note_end(visit, generation)
                yield event
                if event.HasField("finish"):
                    return

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:
        """Describes the one model."""
        return pb.DescribeResponse(models=[self._description])

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        """Turns text into token ids."""
        self._check_model(request.model)
        tokens = await asyncio.to_thread(
            self._model.tokenize, request.text, add_special=request.add_special, parse_special=request.parse_special
        )
        return pb.TokenizeResponse(token_ids=tokens)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Any) -> pb.DetokenizeResponse:
        """Turns token ids into text."""
        self._check_model(request.model)
        for token in request.token_ids:
            if not 0 <= token < self._model.vocab_size:
                raise InvalidRequest(f"Token {token} does not exist.", param="tokens")
        text = b"".join(self._model.piece(token) for token in request.token_ids)
        return pb.DetokenizeResponse(text=text.decode(errors="replace"))

    async def RenderPrompt(self, request: pb.RenderPromptRequest, context: Any) -> pb.RenderPromptResponse:
        """Applies the chat template."""
        self._check_model(request.model)
        text, tokens = await asyncio.to_thread(self._preparer.render, request.chat)
        return pb.RenderPromptResponse(text=text, token_ids=tokens)

    def _prepare(self, request: pb.GenerateRequest, need: Need) -> tuple[Prepared, Sampler]:
        prepared = self._preparer.prepare(request, must_call=need is Need.TOOL)
        forbidden = self._call_beginnings if need is Need.NONE else frozenset[int]()
        try:
            sampler = Sampler(self._model, prepared.options, self._candidates, forbidden_first=forbidden)
        except ValueError as error:
            raise InvalidRequest(f"The answer's form can't be held: {error}.", param="response_format") from error
        sampler.read_prompt(prepared.tokens)
        return prepared, sampler

    @cached_property
    def _gate_beginning(self) -> list[int]:
        return self._preparer.render(conversation_about(""))[1]

    @cached_property
    def _call_beginnings(self) -> frozenset[int]:
        return call_beginnings(map(self._model.piece, range(self._model.vocab_size)))

    async def _visit(self, request: pb.GenerateRequest, prepared: Prepared) -> Visit | None:
        """Brings stored state of the prompt within the engine's reach."""
        if self._stored is None:
            return None
        return await self._stored.begin(
            prepared.tokens, request_class=request.context.request_class,
            system_token_count=prepared.system_token_count,
            prefill_rate=self._prefill_rate, checkpoints=prepared.checkpoints,
        )  # fmt: skip

    def _note_end(self, visit: Visit | None, generation: Generation) -> None:
        """Takes note of a sequence that ended, so that its state is written and brought back in time."""
        if self._stored is None or visit is None:
            return
        tokens = generation.tokens[: generation.computed_count]
        computed_count = max(0, generation.computed_count - generation.cached.count)
        has_called = generation.answer.has_tool_calls
        self._stored.end(visit, tokens, computed_count=computed_count, goes_on=has_called)

    @property
    def _prefill_rate(self) -> float:
        return self._engine.load().prefill_tokens_per_second

    @asynccontextmanager
    async def _explained(
        self, request: pb.GenerateRequest, generation: Generation
    ) -> AsyncIterator[Callable[[pb.Finish], Awaitable[None]]]:
        """Compares a prompt with those before it while it is computed; yields what completes the end of its answer."""
        prompt = generation.tokens[: generation.prompt_token_count]
        comparing = asyncio.create_task(
            asyncio.to_thread(self._explainer.compare, request, prompt, keeps_state=generation.keeps_state)
        )

        async def complete(finish: pb.Finish) -> None:
            self._explainer.complete(request, await comparing, finish, prefill_rate=self._prefill_rate)

        try:
            yield complete
        finally:
            computed = generation.tokens[: generation.computed_count]
            comparing.add_done_callback(lambda done: self._explainer.settle(done.result(), computed))

    @asynccontextmanager
    async def _submitted(
        self, request: pb.GenerateRequest, prepared: Prepared, sampler: Sampler, arrived_at: float,
        visit: Visit | None, kept_beginning: Sequence[int] | None,
    ) -> AsyncIterator[tuple[Generation, asyncio.Queue[Event]]]:  # fmt: skip
        events: asyncio.Queue[Event] = asyncio.Queue()
        generation = self._generation(request, prepared, sampler, events, arrived_at)
        _keep_what_returns(generation, visit)
        if kept_beginning is not None:
            generation.kept_count = shared_length(prepared.tokens, kept_beginning)
            if not self._model.forks_at_any_token:  # it can't be cut to that behind the answer
                generation.keeps_state, generation.checkpoints = False, (generation.kept_count,)
        self._engine.submit(generation)
        try:
            yield generation, events
        finally:
            self._engine.cancel(generation)
            self._note_end(visit, generation)

    def _generation(
        self, request: pb.GenerateRequest, prepared: Prepared, sampler: Sampler, events: asyncio.Queue[Event],
        arrived_at: float,
    ) -> Generation:  # fmt: skip
        is_batch = request.context.request_class in BATCH_CLASSES
        speculation = merge_options(
            request.speculation, self._speculation, has_draft_model=self._has_draft_model,
            must_reproduce=request.sampling.HasField("seed") and not prepared.options.is_greedy,
        )  # fmt: skip
        generation = Generation(
            request_id=request.request_id,
            tokens=prepared.tokens,
            prompt_token_count=len(prepared.tokens),
            max_tokens=prepared.max_tokens,
            sampler=sampler,
            make_answer=partial(_answer, request, prepared, self._preparer.call_format),
            deliver=events.put_nowait,
            arrived_at=arrived_at,
            is_batch=is_batch,
            keeps_state=not is_batch,
            first_call_grammar=prepared.first_call_grammar,
            call_grammar=prepared.call_grammar,
            open_announced_call=prepared.open_announced_call,
            speculation_options=speculation,
            checkpoints=() if is_batch else prepared.checkpoints,
            top_logprobs=request.top_logprobs if request.HasField("top_logprobs") else None,
        )
        self._resume(generation, request.resume_tokens)
        return generation

    def _resume(self, generation: Generation, tokens: Iterable[int]) -> None:
        """Replays what another worker generated, and says it again: the answer goes on behind it."""
        deltas: list[pb.Delta] = []
        for token in tokens:
            deltas += replay(generation, token, self._model.piece(token))
        for delta in merged(deltas):
            generation.deliver(pb.GenerateResponse(delta=delta))

    def _admitted(self, prepared: Prepared) -> pb.GenerateResponse:
        return pb.GenerateResponse(
            admitted=pb.Admitted(
                prompt_token_count=len(prepared.tokens),
                model=self._description.name,
                worker_id=self._explainer.worker_id,
                max_tokens=prepared.max_tokens,
            )
        )

    def _check_model(self, name: str) -> None:
        known = (self._description.name, *self._description.aliases)
        if name and name not in known:
            raise ModelNotFound(f"The model {name!r} is not served here; try {', '.join(known)}.", param="model")


def _keep_what_returns(generation: Generation, visit: Visit | None) -> None:
    """Of a request that nobody continues only that state is kept which an earlier prompt had too."""
    if visit is None:
        return
    generation.fetched_count, generation.restore_seconds = visit.fetched_count, visit.fetch_seconds
    generation.was_fetched_remotely = visit.is_remote
    if generation.is_batch:
        generation.keeps_state = visit.returning_count > 0
        generation.kept_count = visit.returning_count


def _is_whole(request: pb.GenerateRequest, generation: Generation, finish: pb.Finish) -> bool:
    """Whether the model itself ended an answer of which every token was seen here."""
    was_ended = finish.reason in {pb.FINISH_REASON_STOP, pb.FINISH_REASON_TOOL_CALLS} and not finish.stop_sequence
    return was_ended and not generation.answer.is_cut_after_a_call and not request.resume_tokens


def _answer(request: pb.GenerateRequest, prepared: Prepared, call_format: Format) -> Answer:
    chat = request.chat
    return Answer(
        stop=request.stop,
        tools=chat.tools,
        tool_choice=chat.tool_choice,
        parallel_tool_calls=chat.parallel_tool_calls or not chat.HasField("parallel_tool_calls"),
        reasoning=prepared.reasoning,
        call_format=call_format,
    )
