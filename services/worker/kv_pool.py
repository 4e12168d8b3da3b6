"""The KV cache as the engine sees it: sequences that run, sequences that are parked, and the cells they share.

Below the cells may lie a store of blocks. Parked state moves there when it would slow the steps of others or when cells
run out, and comes back when a prompt continues it.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from services.worker.blocks import BLOCK_TOKENS, BlockStore, HashedTokens, StoredPiece, Tokens, as_tokens, stored_pieces
from services.worker.checkpoints import Checkpoints
from services.worker.kv_state import StateLost
from services.worker.parked_sequences import PAUSE_SECONDS, KvMemory, ParkedSequences
from services.worker.parking import CacheSources, Match, Parked, blocks_within, sources

_log = structlog.get_logger(__name__)
_MOVE_SECONDS: Final = 0.02  # how long blocks are moved at a stretch while no answer is being decoded
_STREAMING_MOVE_SECONDS: Final = 0.005  # the same while one is


@dataclass
class _Fetch:
    """Blocks on their way back into cells for a request that waits."""

    wanted: HashedTokens
    age: int = 0
    """Steps since the request last asked for it."""


class KvPool(ParkedSequences):
    """Hands out sequence ids and cells, and keeps finished conversations while there is room."""

    def __init__(
        self, memory: KvMemory, *, cells: int, sequences: int, parked_sequences: int, parked_cells: int, forks: bool,
        store: BlockStore | None = None, fingerprint: bytes = b"", clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.forks = forks and parked_sequences > 0
        super().__init__(
            memory, cells=cells, sequences=sequences, parked_cells=parked_cells, store=store if self.forks else None,
            clock=clock,
        )  # fmt: skip
        self._checkpoints = Checkpoints(memory, store) if store is not None and not forks else None
        self._restored: Match | None = None
        self._fingerprint = fingerprint
        self._fetching: _Fetch | None = None

    @property
    def store(self) -> BlockStore | None:
        """Where blocks of parked sequences go; None where state can't be moved in blocks."""
        return self._mover.store if self._mover else None

    def save_next(self, sequence_id: int) -> bool:
        """Gives the store the next block of a parked sequence that it lacks; says whether there was one."""
        parked = self._parked.get(sequence_id)
        if parked is None or parked.tried_block_count >= parked.known.block_count:
            return False
        self._save(parked, parked.tried_block_count)
        return True

    def erase(self, sequence_id: int) -> None:
        """Drops the cells of a parked sequence; one that is not parked has none to drop."""
        if parked := self._parked.get(sequence_id):
            self._drop(parked)

    def room_beside(self, match: Match | None) -> int:
        """Cells that are free, or would be if all that is parked were given up but what a match shares."""
        kept = {match.sequence_id} if match else set()
        return self._ledger.free_count + self._ledger.exclusive_count(set(self._parked) - kept)

    def key(self, ids: Sequence[int]) -> HashedTokens:
        """Prepares tokens for `best_match` and `fetch`."""
        return HashedTokens(ids, self._fingerprint)

    def best_match(self, wanted: HashedTokens, running: Iterable[tuple[int, Sequence[int], int]]) -> Match | None:
        """Finds the sequence, parked or running, that a prompt can share most with; its last token is left to compute.

        `running` lists id, tokens, and how many of them are computed.
        """
        if not self.forks:
            return self._restored
        for sequence_id, ids, computed_count in running:
            known_count = self._tree.length(sequence_id)
            if known_count < computed_count:
                self._tree.append(sequence_id, as_tokens(ids[known_count:computed_count]))
        while found := self._tree.longest_match(wanted.tokens[:-1]):
            match = Match(*found)
            if self._memory.holds(match.sequence_id, match.length):
                return match
            if match.sequence_id not in self._parked:
                return None
            self._drop(self._parked[match.sequence_id])
        return None

    def stored_length(self, wanted: HashedTokens, match: Match | None) -> int:
        """Says how many tokens of a prompt cells and store hold together."""
        pieces = self._pieces(wanted, match)
        return pieces[-1].end if pieces else match.length if match else 0

    def fetch(self, wanted: HashedTokens, match: Match | None, *, now: float, is_streaming: bool) -> bool:
        """Brings blocks from the store that continue a prompt behind a match; True if the caller must come again.

        While answers are being decoded it moves one block a call. Afterwards `best_match` finds more.
        """
        if self._checkpoints:
            self._restored = self._restore_checkpoint(wanted)
        pieces = self._pieces(wanted, match)
        if not pieces:
            if self._mover and not self._mover.restore_rate.beats(self._prefill_rate):
                self._mover.restore_rate.recover()
            return False
        if self._fetching and self._fetching.wanted is not wanted:
            return True
        sequence_id = self._fetch_target(wanted, match, now)
        self._fetching, self._protected_id = _Fetch(wanted), sequence_id
        deadline = self._clock() + _MOVE_SECONDS
        for number, piece in enumerate(pieces):
            if number and (is_streaming or self._clock() > deadline):
                return True
            if is_streaming and self._must_make_room_first(sequence_id):
                return True
            if not self._fetch_piece(sequence_id, wanted, piece):
                break
        self._end_fetch()
        return False

    def sources(self, match: Match | None) -> CacheSources:
        """Says where the tokens of a match come from."""
        if match is None:
            return CacheSources()
        if match is self._restored:
            return CacheSources(ram=match.length)
        return sources(match, self._parked.get(match.sequence_id))

    def open(self, match: Match | None, *, now: float) -> int:
        """Starts a sequence, sharing the matched beginning of another, and returns its id."""
        if match and match is self._restored:
            self._restored = None
            return match.sequence_id
        if match and (source := self._parked.get(match.sequence_id)):
            source.fetched_from = None
            self._uses.note(blocks_within(source.known, match.length), now=now)
        if not self._free_ids:
            self._evict(except_id=match.sequence_id if match else None)
        sequence_id = self._free_ids.pop()
        if match:
            self._parked_changed = True  # cells that it shares now are not the parked one's alone
            self._memory.fork(match.sequence_id, sequence_id, match.length)
            self._ledger.fork(match.sequence_id, sequence_id, match.length)
        return sequence_id

    def park(self, sequence_id: int, ids: Sequence[int], *, now: float) -> None:
        """Keeps the state of a sequence that ended, as far as these tokens go."""
        if not self.forks or not ids:
            self.checkpoint(sequence_id, ids)
            self.close(sequence_id)
            return
        new = Parked(sequence_id, self.key(ids), now)
        if len(ids) < self._ledger.length(sequence_id):
            self.truncate(sequence_id, len(ids))
            if self._is_parked(new.known.tokens, except_id=sequence_id):
                self.close(sequence_id)
                return
        self._tree.truncate(sequence_id, len(ids))
        self._tree.append(sequence_id, new.known.tokens[self._tree.length(sequence_id) :])
        for old_id in self._tree.beginnings(new.known.tokens):
            if old := self._parked.get(old_id):
                last = max(0, old.known.block_count - 1)
                self._uses.inherit(new.known.hash(last), earlier=old.known.hash(last))
                self._drop(old)
        self._parked[sequence_id] = new
        self._parked_changed = True

    def checkpoint(self, sequence_id: int, ids: Sequence[int]) -> None:
        """Keeps the state of a sequence as it is now, for models whose memory can't be shared from any token on."""
        if self._checkpoints is None or self._ledger.length(sequence_id) != len(ids):
            return
        try:
            self._checkpoints.save(sequence_id, self.key(ids), prefill_rate=self._prefill_rate)
        except StateLost as error:
            _log.warning("checkpoint_not_saved", error=str(error))

    def housekeeping(self, *, is_busy: bool, is_streaming: bool, prefill_rate: float) -> None:
        """Moves parked state towards the store; the engine calls this once a step.

        Busy, it keeps parked cells within their budget; idle, it gives the store what it lacks. While answers are being
        decoded one block is moved at most. A block that takes too long to copy is moved in several steps.
        """
        self._prefill_rate, self._is_streaming = prefill_rate, is_streaming
        has_fetched = self._age_fetch()
        seconds = _STREAMING_MOVE_SECONDS if is_streaming else _MOVE_SECONDS
        deadline = self._clock() + seconds
        while not (has_fetched and is_streaming) and self._tidy(is_busy=is_busy, seconds=seconds):
            seconds = deadline - self._clock()
            if is_streaming or not self._can_save_more(seconds):
                break
        self._count_parked()

    def _age_fetch(self) -> bool:
        """Gives up a fetch whose request is gone; says whether blocks were fetched in this step."""
        if self._fetching is None:
            return False
        self._fetching.age += 1
        if self._fetching.age > 1:
            self._end_fetch()
            return False
        return True

    def _end_fetch(self) -> None:
        self._fetching = self._protected_id = None

    def _pieces(self, wanted: HashedTokens, match: Match | None) -> list[StoredPiece]:
        if self._mover is None or not self._mover.restore_rate.beats(self._prefill_rate):
            return []
        return stored_pieces(wanted, self._mover.store, start=match.length if match else 0, limit=len(wanted) - 1)

    def _restore_checkpoint(self, wanted: HashedTokens) -> Match | None:
        """Starts a sequence with the longest stored state that begins a prompt."""
        checkpoint = self._checkpoints.longest(wanted) if self._checkpoints else None
        if checkpoint is None or self._ledger.free_count < checkpoint.length or not self._free_ids:
            return None
        sequence_id = self._free_ids.pop()
        try:
            self._checkpoints.restore(sequence_id, checkpoint)  # type: ignore[union-attr]
        except (StateLost, KeyError) as error:
            _log.warning("checkpoint_not_restored", error=str(error))
            self._free_ids.append(sequence_id)
            return None
        self._ledger.extend(sequence_id, checkpoint.length)
        return Match(sequence_id, checkpoint.length)

    def _is_parked(self, tokens: Tokens, *, except_id: int) -> bool:
        """Whether a parked sequence begins with tokens."""
        self._tree.remove(except_id)
        found = self._tree.longest_match(tokens)
        return found is not None and found[1] == len(tokens) and found[0] in self._parked

    def _fetch_target(self, wanted: HashedTokens, match: Match | None, now: float) -> int:
        """The parked sequence that fetched blocks are appended to: the matched one if all of it matches, or a fork."""
        length = match.length if match else 0
        parked = self._parked.get(match.sequence_id) if match else None
        if match and parked and len(parked.known) == length:
            if parked.fetched_from is None:
                parked.fetched_from = length
            return match.sequence_id
        sequence_id = self.open(match, now=now)
        extends_running = match is not None and parked is None
        self._parked[sequence_id] = Parked(
            sequence_id, wanted.truncated(length), now, fetched_from=length, extends_running=extends_running
        )
        self._tree.append(sequence_id, wanted.tokens[:length])
        return sequence_id

    def _must_make_room_first(self, sequence_id: int) -> bool:
        """Makes room for a block as far as a step can wait for it; says whether that takes more steps."""
        has_room = self.make_room(BLOCK_TOKENS, except_id=sequence_id, seconds=PAUSE_SECONDS)
        return not has_room and self.can_free_cells(except_id=sequence_id)

    def _fetch_piece(self, sequence_id: int, wanted: HashedTokens, piece: StoredPiece) -> bool:
        block = self._mover.store.get(piece.hash) if self._mover else None
        if block is None or not self.make_room(len(block.tokens), except_id=sequence_id):
            return False
        try:
            self._mover.restore(sequence_id, block, piece)  # type: ignore[union-attr]
        except StateLost as error:
            _log.warning("kv_block_not_restored", error=str(error))
            return False
        self._ledger.extend(sequence_id, piece.end - piece.start)
        self._tree.append(sequence_id, wanted.tokens[piece.start : piece.end])
        self._parked_changed = True
        parked = self._parked[sequence_id]
        parked.known = wanted.truncated(piece.end)
        parked.tried_block_count = piece.start // BLOCK_TOKENS
        return True
