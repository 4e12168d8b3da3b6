"""Remembers what requests have said of KV blocks: whose they were, how often they came, whether they will again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.write_policy import ONE_OFF_CLASSES, Origin, Part, expected_uses

_MOST_BLOCKS: Final = 32_768
_UNKNOWN: Final = Origin()


class BlockHistory:
    """Origins of blocks by hash; those not seen for longest are forgotten. Reading is safe from any thread."""

    def __init__(self, most_blocks: int = _MOST_BLOCKS) -> None:
        self._most_blocks = most_blocks
        self._origins: dict[bytes, Origin] = {}

    def note_prompt(
        self, hashes: Sequence[bytes], *, request_class: "pb.RequestClass.ValueType", system_block_count: int
    ) -> None:
        """Takes note of the full blocks of a prompt, the first of which lie within tools and system prompt."""
        for index, name in enumerate(hashes):
            known = self._origins.get(name)
            part = Part.SYSTEM if index < system_block_count else Part.HISTORY
            self._keep(name, _seen(known, request_class, part))

    def note_shared_end(self, name: bytes, *, request_class: "pb.RequestClass.ValueType") -> None:
        """Takes note of the piece of a prompt in which its system text ends."""
        self._keep(name, _seen(self._origins.get(name), request_class, Part.SYSTEM))

    def note_answer(
        self, hashes: Sequence[bytes], *, request_class: "pb.RequestClass.ValueType", goes_on: bool
    ) -> None:
        """Takes note of all blocks of a sequence that an answer ended, the last, partial one too."""
        for name in hashes:
            known = self._origins.get(name, Origin(request_class))
            self._keep(name, replace(known, goes_on=goes_on) if _may_go_on(request_class) else known)

    def origin(self, block_hash: bytes, parent: bytes) -> Origin:
        """What is known of a block; of one that was never named, that it was generated behind its parent."""
        if known := self._origins.get(block_hash):
            return known
        before = self._origins.get(parent)
        return replace(before, part=Part.GENERATED, seen_count=0, has_returned=False) if before else _UNKNOWN

    def knows(self, block_hash: bytes) -> bool:
        """Whether a request has named a block."""
        return block_hash in self._origins

    def seen_count(self, block_hash: bytes) -> int:
        """How many prompts have held a block."""
        return self._origins.get(block_hash, _UNKNOWN).seen_count

    def expected_uses(self, block_hash: bytes) -> float:
        """How often a block will probably be asked for again."""
        return expected_uses(self._origins.get(block_hash, _UNKNOWN))

    def _keep(self, name: bytes, origin: Origin) -> None:
        self._origins.pop(name, None)
        self._origins[name] = origin  # the newest come last
        while len(self._origins) > self._most_blocks:
            del self._origins[next(iter(self._origins))]


def _seen(known: Origin | None, request_class: "pb.RequestClass.ValueType", part: Part) -> Origin:
    """A block that several kinds of requests hold counts as the kind that returns."""
    if known is None:
        return Origin(request_class, part, seen_count=1)
    is_kept = known.request_class not in ONE_OFF_CLASSES
    return Origin(
        request_class=known.request_class if is_kept else request_class,
        part=Part.SYSTEM if Part.SYSTEM in (known.part, part) else part,
        seen_count=known.seen_count + 1,
        has_returned=known.has_returned or not known.goes_on,
        goes_on=known.goes_on and not _may_go_on(request_class),
    )


def _may_go_on(request_class: "pb.RequestClass.ValueType") -> bool:
    """A title or a summary of a conversation says nothing about whether that goes on."""
    return request_class not in ONE_OFF_CLASSES
