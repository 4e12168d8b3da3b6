"""The requests of an engine: those that arrived, those that wait for a slot, those that hold one."""

import queue
import threading
import time
from collections.abc import Callable, Sequence

from services.worker.generation import NO_SEQUENCE, Generation
from services.worker.kv_pool import KvPool
from services.worker.scheduler import stands_back
from services.worker.slots import SlotBook
from services.worker.speculation.speculator import Speculator


class Requests:
    """Keeps them in order, and gives back what they hold. `submit`, `put`, `stop` and counts are for any thread."""

    def __init__(self, pool: KvPool, speculator: Speculator, *, at_most: int) -> None:
        self.waiting: list[Generation] = []
        self.running: list[Generation] = []
        self.released_count = 0
        """How many requests have given up their cells."""
        self.slots = SlotBook(pool.sequence_count)
        self._pool, self._speculator = pool, speculator
        self._inbox: queue.SimpleQueue[Generation | Callable[[], None] | None] = queue.SimpleQueue()
        self._at_most = at_most
        self._open_count = 0
        self._open_count_guard = threading.Lock()

    def submit(self, generation: Generation) -> bool:
        """Takes a request; false if there are too many."""
        with self._open_count_guard:
            if self._open_count >= self._at_most:
                return False
            self._open_count += 1
        self._inbox.put(generation)
        return True

    def put(self, work: Callable[[], None]) -> None:
        """Lets `receive` do something else between two steps."""
        self._inbox.put(work)

    def stop(self) -> None:
        """Makes `receive` say that the end has come."""
        self._inbox.put(None)

    @property
    def running_count(self) -> int:
        """Requests that hold a slot."""
        return len(self.running)

    @property
    def waiting_count(self) -> int:
        """Requests that arrived and hold none."""
        return max(0, self._open_count - len(self.running))

    @property
    def is_empty(self) -> bool:
        """Whether none runs or waits."""
        return not self.running and not self.waiting

    @property
    def is_streaming(self) -> bool:
        """Whether an answer is being decoded: one that somebody waits for, if there is any such work."""
        now = time.monotonic()
        urgent = [one for one in (*self.running, *self.waiting) if not stands_back(one, now=now)]
        return any(one.is_decoding for one in urgent or self.running)

    @property
    def are_all_decoding(self) -> bool:
        """Whether the next step is a short one: nobody reads a prompt, or is about to."""
        return not self.waiting and all(one.is_decoding for one in self.running)

    @property
    def cancelled(self) -> list[Generation]:
        """Those that nobody waits for any more."""
        return [one for one in (*self.running, *self.waiting) if one.is_cancelled]

    @property
    def is_batch_before_urgent(self) -> bool:
        """Whether what somebody waits for can't run yet, and only batch work does."""
        now = time.monotonic()
        return self.are_urgent and all(stands_back(one, now=now) for one in self.running)

    @property
    def are_urgent(self) -> bool:
        """Whether somebody waits for the answer of one of them."""
        now = time.monotonic()
        return any(not stands_back(one, now=now) for one in (*self.running, *self.waiting))

    def receive(self, *, waits: bool, at_most_seconds: float | None = None) -> bool:
        """Takes what has arrived, or waits for it; false means stop."""
        while waits or not self._inbox.empty():
            try:
                arrived = self._inbox.get(timeout=at_most_seconds)
            except queue.Empty:
                return True
            if arrived is None:
                return False
            if isinstance(arrived, Generation):
                self.waiting.append(arrived)
            else:
                arrived()
            waits = False
        return True

    def start(self, generation: Generation, sequence_id: int, computed_count: int) -> None:
        """Gives a waiting request a slot and a sequence whose first tokens are computed."""
        generation.sequence_id, generation.computed_count = sequence_id, computed_count
        self.slots.begin(sequence_id, generation.request_id)
        self.waiting.remove(generation)
        self.running.append(generation)

    def preempt(self, generation: Generation) -> None:
        """Takes the slot of a request, which continues later; its stream only pauses."""
        self._release(generation, generation.tokens[: generation.computed_count])
        generation.computed_count = 0
        self.waiting.append(generation)

    def end(self, generation: Generation) -> None:
        """Frees what a request held; its KV state stays parked."""
        if generation.is_running:
            self.drop_guesses(generation)
            self._release(generation, generation.kept_tokens if generation.keeps_state else None)
        else:
            self.waiting.remove(generation)
        generation.sampler.close()
        with self._open_count_guard:
            self._open_count -= 1

    def drop_guesses(self, generation: Generation) -> None:
        """Takes back the cells of guesses that were not confirmed."""
        if generation.guessed_count:
            self._pool.truncate(generation.sequence_id, generation.computed_count)
            generation.guessed_count = 0

    def _release(self, generation: Generation, kept_tokens: Sequence[int] | None) -> None:
        if kept_tokens is None:
            self.slots.clear(generation.sequence_id)
            self._pool.close(generation.sequence_id)
        else:
            self.slots.end(generation.sequence_id, kept_tokens)
            self._pool.park(generation.sequence_id, kept_tokens, now=time.monotonic())
        self.released_count += 1
        self._speculator.release(generation)
        generation.sequence_id = NO_SEQUENCE
        self.running.remove(generation)
