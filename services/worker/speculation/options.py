"""Whether and how a request's tokens are guessed."""

from dataclasses import dataclass
from typing import Final, Literal

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import InvalidRequest

MOST_PER_STEP: Final = 64
"""Guesses of all streams in one step: each needs room for its logits."""
Kind = Literal["auto", "none", "lookup", "draft"]
"""`lookup` copies what followed earlier in prompt and answer, `draft` asks a small model, `auto` takes what pays."""
_KINDS: Final[dict[int, Kind]] = {
    pb.SPECULATION_KIND_AUTO: "auto",
    pb.SPECULATION_KIND_NONE: "none",
    pb.SPECULATION_KIND_LOOKUP: "lookup",
    pb.SPECULATION_KIND_DRAFT: "draft",
}


@dataclass(frozen=True)
class SpeculationOptions:
    """What may be guessed."""

    kind: Kind = "none"
    max_tokens: int = 0
    """Most tokens guessed in one step."""

    @property
    def allows_lookup(self) -> bool:
        """Whether earlier text may be copied."""
        return self.kind in ("auto", "lookup") and self.max_tokens > 0

    @property
    def allows_draft(self) -> bool:
        """Whether a draft model may be asked."""
        return self.kind in ("auto", "draft") and self.max_tokens > 0


NO_SPECULATION: Final = SpeculationOptions()


def merge_options(
    asked: pb.Speculation, defaults: SpeculationOptions, *, has_draft_model: bool, must_reproduce: bool = False
) -> SpeculationOptions:
    """What a request asks for over the model's defaults; `max_tokens` can only lower the default.

    How much is guessed hangs on the time that steps take, and the size of a step rounds its logits: where a seed must
    give the same text again, nothing is guessed by default.
    """
    kind = _KINDS.get(asked.kind, "none" if must_reproduce else defaults.kind)
    if kind == "draft" and not has_draft_model:
        raise InvalidRequest("This model runs without a draft model.", param="speculative.kind")
    if not asked.HasField("max_tokens"):
        return SpeculationOptions(kind, defaults.max_tokens)
    if asked.max_tokens < 1:
        raise InvalidRequest("speculative.max_tokens must be at least 1.", param="speculative.max_tokens")
    return SpeculationOptions(kind, min(asked.max_tokens, defaults.max_tokens))
