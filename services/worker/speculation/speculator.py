"""Chooses for each step what to guess for which stream, and keeps count."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from services.worker.cost import StepCost, StepShape, total
from services.worker.generation import Generation
from services.worker.llama import DecodeFailed
from services.worker.scheduler import Chunk
from services.worker.speculation.controller import Proposal, choose_lengths, seconds_saved
from services.worker.speculation.draft_model import DraftModel, DraftOrder
from services.worker.speculation.request import Source

_log = structlog.get_logger(__name__)
_MOST_LAG: Final = 8  # tokens that a draft model reads beside its first guess; more it reads in steps of its own
_CATCH_UP_SHARE: Final = 0.5  # of a step's budget


@dataclass(frozen=True)
class Guesses:
    """Tokens that were guessed by each source, and those of them that were right."""

    drafted: Counter[Source] = field(default_factory=Counter)
    accepted: Counter[Source] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Candidate:
    """What could be guessed for a stream, and by whom."""

    generation: Generation
    source: Source
    proposal: Proposal


class Speculator:
    """Guesses for all streams of an engine. Only the engine thread uses it."""

    def __init__(
        self, cost: StepCost, *, most_per_step: int, step_seconds: float, draft_model: DraftModel | None = None
    ) -> None:
        self.guesses = Guesses()
        self._cost, self._most, self._step_seconds = cost, most_per_step, step_seconds
        self._draft_model = draft_model
        self._may_catch_up = False
        """Whether the draft model may read a text in this step: beside no prompt, and one text a step."""

    def warm_up(self) -> None:
        """Measures the draft model, if there is one."""
        if self._draft_model:
            self._draft_model.warm_up()

    def drafts(self, plan: Sequence[Chunk[Generation]]) -> dict[Generation, Sequence[int]]:
        """Guesses what the streams of a step will say, as far as that pays beside all that the step does."""
        streams = [chunk for chunk in plan if chunk.generation.is_decoding]
        if not streams:
            return {}
        shape = total(chunk.shape for chunk in streams)
        self._may_catch_up = len(streams) == len(plan)
        found = (self._candidate(chunk.generation, chunk.shape, shape) for chunk in streams)
        candidates = [candidate for candidate in found if candidate]
        if not candidates:
            return {}
        lengths = choose_lengths(
            [candidate.proposal for candidate in candidates], step=total(chunk.shape for chunk in plan),
            streams=shape, cost=self._cost, most=self._most,
        )  # fmt: skip
        drafts: dict[Generation, Sequence[int]] = {}
        orders: dict[Generation, DraftOrder] = {}
        for candidate, length in zip(candidates, lengths, strict=True):
            generation = candidate.generation
            generation.speculation.source = candidate.source
            if length and candidate.source == "lookup":
                drafts[generation] = generation.speculation.lookup().guess(length)
            elif length:
                orders[generation] = DraftOrder(generation, generation.tokens, length)
            else:
                generation.speculation.draft_acceptance.observe_plain_step()
        return {**drafts, **self._ask_model(orders)}

    def observe(self, generation: Generation) -> None:
        """Notes how the latest draft went."""
        speculation = generation.speculation
        speculation.end_draft()
        self.guesses.drafted[speculation.source] += speculation.latest_drafted
        self.guesses.accepted[speculation.source] += speculation.latest_accepted

    def release(self, generation: Generation) -> None:
        """Call when a request gives up its slot."""
        if self._draft_model:
            self._draft_model.release(generation)

    def _candidate(self, generation: Generation, stream: StepShape, streams: StepShape) -> _Candidate | None:
        speculation = generation.speculation
        room = min(speculation.options.max_tokens, generation.max_tokens - generation.generated_count - 1)
        if room < 1:
            return None
        depth = generation.computed_count
        chances = speculation.lookup_chances(room)
        model_proposal = self._model_proposal(generation, room, stream, streams)
        if model_proposal and (not chances or model_proposal.chances[0] > chances[0]):
            return _Candidate(generation, "draft", model_proposal)
        return _Candidate(generation, "lookup", Proposal(chances, depth)) if chances else None

    def _model_proposal(
        self, generation: Generation, room: int, stream: StepShape, streams: StepShape
    ) -> Proposal | None:
        """What the draft model could guess, if it has read the text and pays; reads on if that will pay."""
        model, speculation = self._draft_model, generation.speculation
        if model is None or not speculation.options.allows_draft:
            return None
        depth = generation.computed_count
        per_token = (model.cost.expected_seconds(streams) or 0.0) / streams.output_count
        proposal = Proposal(speculation.draft_acceptance.chances(room), depth, per_token)
        (length,) = choose_lengths([proposal], step=streams, streams=streams, cost=self._cost, most=room)
        if not length:
            return None
        if (lag := model.lag(generation, generation.tokens)) <= _MOST_LAG:
            return proposal
        saved = seconds_saved(proposal, length, stream=stream, cost=self._cost) * generation.generated_count
        # An answer is taken to be half told: what reading costs must have been worth it for what was said already.
        if self._may_catch_up and saved > (model.cost.expected_seconds(StepShape.of_row(depth - lag, lag, 1)) or 0.0):
            self._may_catch_up = False
            try:
                model.catch_up(generation, generation.tokens, seconds=self._step_seconds * _CATCH_UP_SHARE)
            except DecodeFailed as error:
                self._give_up_model(error)
        return None

    def _ask_model(self, orders: Mapping[Generation, DraftOrder]) -> dict[Generation, Sequence[int]]:
        if not orders or self._draft_model is None:
            return {}
        try:
            drafts = self._draft_model.draft(list(orders.values()))
        except DecodeFailed as error:
            self._give_up_model(error)
            return {}
        return {generation: draft for generation, draft in zip(orders, drafts, strict=True) if draft}

    def _give_up_model(self, error: DecodeFailed) -> None:
        """Requests don't need the draft model: without it they go on, one token a step."""
        _log.error("draft_model_failed", error=str(error))
        self._draft_model = None
