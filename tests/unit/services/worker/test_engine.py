import queue
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import BackendFailed, Overloaded
from services.worker.answer import Answer
from services.worker.call_guard import replay
from services.worker.compute_lock import ComputeLock, FileComputeLock, NoComputeLock
from services.worker.engine import Engine, EngineLimits
from services.worker.generation import Event, Generation
from services.worker.kv_pool import KvPool
from services.worker.llama import Row
from services.worker.ram_tier import RamTier
from services.worker.scheduler import MOST_DELAY_SECONDS
from services.worker.speculation.draft_model import DraftModel
from tests.unit.services.worker.fake_llama import FakeContext, FakeModel, FakeSampler, expected


class Request:
    """A request of a test and what came back for it."""

    def __init__(self, prompt: Sequence[int], max_tokens: int, **options: Any) -> None:
        self.prompt = list(prompt)
        self.events: queue.Queue[Event] = queue.Queue()
        self.generation = Generation(
            request_id=options.pop("request_id", "r"),
            tokens=list(prompt),
            prompt_token_count=len(prompt),
            max_tokens=max_tokens,
            sampler=cast("Any", FakeSampler()),
            make_answer=options.pop("make_answer", Answer),
            deliver=self.events.put,
            arrived_at=time.monotonic(),
            **options,
        )

    def next(self, *, skip_progress: bool = True) -> Event:
        while True:
            event = self.events.get(timeout=30)
            if not (skip_progress and isinstance(event, pb.GenerateResponse) and event.HasField("progress")):
                return event

    def wait(self) -> pb.Finish:
        while True:
            event = self.next()
            if isinstance(event, Exception):
                raise event
            if event.HasField("finish"):
                return event.finish

    @property
    def generated(self) -> list[int]:
        return self.generation.tokens[len(self.prompt) :]


def deliver(events: list[tuple[Generation, Event]]) -> None:
    for generation, event in events:
        generation.deliver(event)


@contextmanager
def running_engine(
    context: FakeContext | None = None,
    *,
    slots: int = 4,
    cells: int = 10_000,
    queue_size: int = 100,
    parked: int = 8,
    draft: DraftModel | None = None,
    ram: int = 0,
    parked_cells: int | None = None,
    lock: ComputeLock | None = None,
) -> Iterator[tuple[Engine, FakeContext, KvPool]]:
    context = context or FakeContext(cells=cells)
    pool = KvPool(
        context, cells=cells, sequences=slots + parked, parked_sequences=parked,
        parked_cells=cells if parked_cells is None else parked_cells, forks=True, store=RamTier(ram) if ram else None,
    )  # fmt: skip
    limits = EngineLimits(slots=slots, queue_size=queue_size, batch_tokens=64, step_budget_seconds=0.25)
    engine = Engine(
        cast("Any", FakeModel()), cast("Any", context), pool, lock or NoComputeLock(), limits, deliver, draft
    )
    engine.start()
    context.steps.clear()
    context.prefilled_count = 0
    try:
        yield engine, context, pool
    finally:
        engine.stop()


def test_an_answer_is_what_the_model_says_and_ends_at_max_tokens() -> None:
    with running_engine() as (engine, _, _):
        request = Request([5, 6, 7], max_tokens=10)
        engine.submit(request.generation)
        finish = request.wait()
    assert request.generated == expected([5, 6, 7], 10)
    assert finish.reason == pb.FINISH_REASON_LENGTH
    assert (finish.usage.prompt_token_count, finish.usage.completion_token_count) == (3, 10)


def test_an_answer_that_is_continued_is_the_one_that_was_not_cut() -> None:
    whole = expected([5, 6, 7], 10)
    with running_engine() as (engine, _, _):
        request = Request([5, 6, 7], max_tokens=10)
        for token in whole[:4]:
            replay(request.generation, token, FakeModel.piece(token))
        engine.submit(request.generation)
        finish = request.wait()
    assert request.generated == whole
    assert (finish.usage.prompt_token_count, finish.usage.completion_token_count) == (3, 10)


def test_a_continued_answer_whose_last_token_was_generated_ends_at_once() -> None:
    whole = expected([5, 6, 7], 10)
    with running_engine() as (engine, context, _):
        request = Request([5, 6, 7], max_tokens=10)
        for token in whole:
            replay(request.generation, token, FakeModel.piece(token))
        engine.submit(request.generation)
        finish = request.wait()
    assert (request.generated, finish.reason, context.prefilled_count) == (whole, pb.FINISH_REASON_LENGTH, 0)


def test_a_continued_answer_that_had_reached_its_stop_text_ends_at_once() -> None:
    with running_engine() as (engine, _, _):
        request = Request([5, 6, 7], max_tokens=10, make_answer=lambda: Answer(stop=["9 "]))
        for token in (8, 9):
            replay(request.generation, token, FakeModel.piece(token))
        engine.submit(request.generation)
        finish = request.wait()
    assert (request.generated, finish.reason, finish.stop_sequence) == ([8, 9], pb.FINISH_REASON_STOP, "9 ")


def test_several_requests_decode_in_one_step() -> None:
    with running_engine(FakeContext(seconds_per_step=0.002)) as (engine, context, _):
        requests = [Request([n, n + 1], max_tokens=20) for n in range(10, 14)]
        for request in requests:
            engine.submit(request.generation)
        for request in requests:
            request.wait()
    assert all(request.generated == expected(request.prompt, 20) for request in requests)
    assert max(len(step) for step in context.steps) == 4
    assert len(context.steps) < 40


def test_the_next_turn_prefills_only_what_is_new() -> None:
    with running_engine() as (engine, context, _):
        first = Request(range(1, 101), max_tokens=5)
        engine.submit(first.generation)
        first.wait()
        context.prefilled_count = 0
        second = Request([*first.generation.tokens, 50, 51], max_tokens=1)
        engine.submit(second.generation)
        finish = second.wait()
    assert finish.usage.cached_token_count == 104  # the last generated token was never computed
    assert context.prefilled_count == 3


def test_siblings_prefill_their_common_beginning_once() -> None:
    with running_engine() as (engine, context, _):
        common = list(range(1, 121)) * 3
        pair = [Request([*common, n], max_tokens=3) for n in (7, 8)]
        for request in pair:
            engine.submit(request.generation)
        for request in pair:
            request.wait()
    assert [request.generated for request in pair] == [expected(request.prompt, 3) for request in pair]
    assert context.prefilled_count <= len(common) + 2 + 2 * 3


def test_requests_that_wait_are_not_compared_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    best_match = KvPool.best_match
    monkeypatch.setattr(KvPool, "best_match", lambda *args: (compared.append(1), best_match(*args))[1])
    with running_engine(FakeContext(seconds_per_step=0.001), cells=1000) as (engine, context, _):
        common = list(range(1, 121)) * 5
        requests = [Request([*common, n], max_tokens=3) for n in (7, 8)]
        requests.append(Request([9] * 700, max_tokens=1))  # no cells for it beside the others
        for request in requests:
            engine.submit(request.generation)
        for request in requests:
            request.wait()
    assert [request.generated for request in requests] == [
        expected(request.prompt, request.generation.max_tokens) for request in requests
    ]
    assert len(context.steps) > 15
    assert len(compared) <= 10


def test_cancelling_frees_the_slot_and_keeps_the_prefilled_part() -> None:
    with running_engine(FakeContext(seconds_per_step=0.005), slots=1) as (engine, _, pool):
        endless = Request(range(1, 70), max_tokens=100_000)
        engine.submit(endless.generation)
        endless.next()
        engine.cancel(endless.generation)
        other = Request([3, 4], max_tokens=2)
        engine.submit(other.generation)
        other.wait()
        assert pool.parked_count == 2
    assert endless.generation.sampler.is_closed  # type: ignore[attr-defined]


def test_a_cancelled_request_that_waits_never_runs() -> None:
    with running_engine(FakeContext(seconds_per_step=0.002), slots=1) as (engine, context, _):
        first = Request([1, 2], max_tokens=30)
        waiting = Request([9, 9, 9], max_tokens=5)
        engine.submit(first.generation)
        engine.submit(waiting.generation)
        engine.cancel(waiting.generation)
        first.wait()
    assert waiting.generated == []
    assert not any(tokens[:3] == [9, 9, 9] for tokens in context.sequences.values())


def test_a_full_queue_refuses() -> None:
    with running_engine(FakeContext(seconds_per_step=0.01), slots=1, queue_size=1) as (engine, _, _):
        requests = [Request([n], max_tokens=50) for n in (1, 2)]
        for request in requests:
            engine.submit(request.generation)
        with pytest.raises(Overloaded):
            engine.submit(Request([3], max_tokens=1).generation)
        for request in requests:
            engine.cancel(request.generation)


def test_a_failed_step_ends_its_requests_with_an_error_and_the_next_one_works() -> None:
    with running_engine(FakeContext(seconds_per_step=0.002)) as (engine, context, _):
        request = Request([1, 2], max_tokens=1000)
        engine.submit(request.generation)
        request.next()
        context.fail_next = True
        with pytest.raises(BackendFailed):
            request.wait()
        after = Request([1, 2], max_tokens=4)
        engine.submit(after.generation)
        after.wait()
    assert after.generated == expected([1, 2], 4)


def test_a_title_is_not_parked() -> None:
    with running_engine() as (engine, _, pool):
        title = Request([1, 2, 3], max_tokens=3, is_batch=True, keeps_state=False)
        engine.submit(title.generation)
        title.wait()
        follow_up = Request([4], max_tokens=1)
        engine.submit(follow_up.generation)
        follow_up.wait()
        time.sleep(0.01)
        assert pool.parked_count == 1


@pytest.mark.parametrize(("slots", "cells"), [(2, 10_000), (4, 230)], ids=["no free slot", "no free cells"])
def test_a_main_request_takes_the_place_of_titles_and_they_go_on_behind_it(slots: int, cells: int) -> None:
    context = FakeContext(cells=cells, seconds_per_step=0.002)
    with running_engine(context, slots=slots, cells=cells) as (engine, context, _):
        titles = [Request([n] * 90, max_tokens=100, is_batch=True, keeps_state=False) for n in (1, 2)]
        for title in titles:
            engine.submit(title.generation)
            title.next()
        context.gate = threading.Event()  # the step in progress lasts until the main request is there
        before = len(context.steps)
        main = Request([3] * 60, max_tokens=1)
        engine.submit(main.generation)
        context.gate.set()
        main.wait()
        for title in titles:
            title.wait()
    begun = next(number for number, step in enumerate(context.steps[before:]) if any(size == 60 for _, size in step))
    assert begun <= 2  # one step was in progress, and one may have begun before it was held up
    assert [title.generated for title in titles] == [expected(title.prompt, 100) for title in titles]


def test_titles_do_not_take_each_others_place() -> None:
    with running_engine(FakeContext(seconds_per_step=0.001), slots=1) as (engine, context, _):
        titles = [Request([n] * 20, max_tokens=30, is_batch=True) for n in (1, 2)]
        for title in titles:
            engine.submit(title.generation)
        for title in titles:
            title.wait()
    assert context.prefilled_count == 2 * (20 + 29)


def test_with_too_few_cells_requests_pause_but_all_finish_with_the_right_text() -> None:
    chance = random.Random(3)
    with running_engine(cells=200, parked=4) as (engine, context, pool):
        requests = [
            Request([chance.randint(1, 100) for _ in range(chance.randint(1, 60))], max_tokens=chance.randint(1, 60))
            for _ in range(32)
        ]
        for request in requests:
            engine.submit(request.generation)
        for request in requests:
            request.wait()
        time.sleep(0.01)
        assert [r.generated for r in requests] == [expected(r.prompt, r.generation.max_tokens) for r in requests]
        pool.drop_parked()
        assert pool.used_cells == 0
        assert not context.sequences


def test_the_oldest_request_is_never_preempted() -> None:
    context = FakeContext(cells=300, seconds_per_step=0.001)
    with capture_logs() as logs, running_engine(context, cells=300, parked=4) as (engine, context, _):
        requests = [Request([n] * 40, max_tokens=200, request_id=str(n)) for n in (101, 102, 103, 104)]
        for request in requests:
            engine.submit(request.generation)
        for request in requests:
            request.wait()
    preempted = [entry["request_id"] for entry in logs if entry["event"] == "request_preempted"]
    assert preempted
    assert "101" not in preempted
    assert all(request.generated == expected(request.prompt, 200) for request in requests)


def test_a_preempted_request_gets_its_state_back_from_memory() -> None:
    context = FakeContext(cells=1200, seconds_per_step=0.0005)
    with running_engine(context, cells=1200, parked=4, ram=1_000_000) as (engine, context, _):
        pair = [Request([n] * 500, max_tokens=300) for n in (101, 102)]
        for request in pair:
            engine.submit(request.generation)
        for request in pair:
            request.wait()
    assert all(request.generated == expected(request.prompt, 300) for request in pair)
    assert context.restored_count > 0
    assert context.prefilled_count <= 2 * 800 + 2 * 256


def test_a_conversation_that_left_the_cells_comes_back_without_prefill() -> None:
    slow = FakeContext(cells=2000, seconds_per_token=0.0002)  # slower than what it saves can be brought back
    with running_engine(slow, parked_cells=0, ram=1_000_000, cells=2000) as (engine, context, _):
        first = Request(range(1, 101), max_tokens=200)
        engine.submit(first.generation)
        first.wait()
        for number in range(8):
            other = Request([number] * 300, max_tokens=200)
            engine.submit(other.generation)
            other.wait()
        context.prefilled_count = 0
        again = Request([*first.generation.tokens, 50, 51], max_tokens=1)
        engine.submit(again.generation)
        finish = again.wait()
    assert (finish.usage.cached_token_count, finish.usage.cached_from.ram_token_count) == (299, 299)
    assert context.prefilled_count == 3


@pytest.mark.parametrize("ram", [0, 20_000, 10_000_000])
@pytest.mark.parametrize("seed", range(2))
def test_of_many_requests_that_crowd_and_cancel_all_others_get_their_answer(ram: int, seed: int) -> None:
    chance = random.Random(seed)
    context = FakeContext(cells=2000)
    with running_engine(context, cells=2000, parked=4, parked_cells=500, ram=ram) as (engine, context, pool):
        beginnings = [[chance.randint(1, 100) for _ in range(700)] for _ in range(4)]
        requests = [
            Request(
                [*chance.choice(beginnings)[: chance.randint(0, 700)], *(chance.randint(1, 100) for _ in range(20))],
                max_tokens=chance.randint(1, 150),
            )
            for _ in range(64)
        ]
        cancelled = set(chance.sample(range(64), 16))
        for number, request in enumerate(requests):
            engine.submit(request.generation)
            if number in cancelled:
                time.sleep(chance.random() * 0.003)
                engine.cancel(request.generation)
        finished = [request for number, request in enumerate(requests) if number not in cancelled]
        for request in finished:
            request.wait()
    assert all(r.generated == expected(r.prompt, r.generation.max_tokens) for r in finished)
    pool.drop_parked()
    assert pool.used_cells == 0
    assert not context.sequences


def test_prefill_progress_is_reported() -> None:
    with running_engine() as (engine, _, _):
        request = Request([1, 2, 3] * 60, max_tokens=1)
        engine.submit(request.generation)
        event = request.next(skip_progress=False)
        while isinstance(event, pb.GenerateResponse) and event.progress.phase != pb.PHASE_PREFILL:
            event = request.next(skip_progress=False)
    assert isinstance(event, pb.GenerateResponse)
    assert 0 < event.progress.processed_token_count < event.progress.total_token_count == 180


def test_a_step_that_does_not_return_is_called_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr("services.worker.cost._SHORTEST_HANG_SECONDS", 0.01)
    context = FakeContext()
    with running_engine(context) as (engine, _, _):
        context.gate = threading.Event()
        request = Request([1, 2], max_tokens=1)
        engine.submit(request.generation)
        deadline = time.monotonic() + 5
        while not engine.is_hung and time.monotonic() < deadline:
            time.sleep(0.005)
        assert engine.is_hung
        context.gate.set()
        request.wait()
        assert not engine.is_hung


def test_an_engine_whose_thread_fails_between_two_steps_is_called_hung() -> None:
    class BrokenLock(NoComputeLock):
        def claim(self, *, is_urgent: bool) -> None:
            raise OSError("No locks available")

    with running_engine(lock=BrokenLock()) as (engine, _, _):
        deadline = time.monotonic() + 5
        while not engine.is_hung and time.monotonic() < deadline:
            time.sleep(0.005)
        assert engine.is_hung


def test_only_the_engine_s_thread_computes_also_to_warm_up() -> None:
    class Watched(FakeContext):
        def __init__(self) -> None:
            super().__init__()
            self.threads: set[str] = set()

        def decode(self, rows: Sequence[Row]) -> list[range]:
            self.threads.add(threading.current_thread().name)
            return super().decode(rows)

    context = Watched()
    with running_engine(context) as (engine, _, _):
        request = Request([5, 6, 7], max_tokens=2)
        engine.submit(request.generation)
        request.wait()
    assert context.threads == {"engine"}


def test_an_engine_that_cannot_warm_up_does_not_start() -> None:
    context = FakeContext()
    context.fail_next = True
    with pytest.raises(RuntimeError, match="broken"), running_engine(context):
        pass


def test_of_requests_that_come_together_each_finds_what_it_begins_with_in_its_cells() -> None:
    with running_engine(FakeContext(seconds_per_token=0.0002), ram=1_000_000, parked_cells=0) as (engine, _, _):
        known = Request(range(600), max_tokens=1)
        engine.submit(known.generation)
        known.wait()
        requests = [Request([9] * 10, max_tokens=2), Request([*range(600), 7], max_tokens=2)]
        engine.call(lambda: [engine.submit(request.generation) for request in requests]).result()
        for request in requests:
            request.wait()
    assert requests[1].generation.cached.parked == 600


def test_a_request_that_comes_alone_finds_nothing_in_the_cells_beyond_the_budget_but_what_it_begins_with() -> None:
    held: list[dict[int, int]] = []
    context = FakeContext()
    with running_engine(context, ram=1_000_000, parked_cells=0) as (engine, _, pool):

        def note_cells(_: Sequence[int]) -> int:
            held.append(pool.lengths())
            return 1

        known = Request(range(600), max_tokens=1)
        engine.submit(known.generation)
        known.wait()
        engine.call(lambda: None).result()
        context.next_token = note_cells
        request = Request([*range(10), *[99] * 60], max_tokens=2)
        engine.submit(request.generation)
        request.wait()
    assert request.generation.cached.parked == 10
    assert [sum(lengths.values()) for lengths in held] == [10, 70]
    assert all(len(lengths) == 1 for lengths in held)


def test_a_title_is_made_once_no_other_worker_has_work_that_somebody_waits_for(tmp_path: Path) -> None:
    other = FileComputeLock(tmp_path / "lock")
    other.claim(is_urgent=True)
    with running_engine(lock=FileComputeLock(tmp_path / "lock")) as (engine, context, _):
        title = Request([1, 2, 3], max_tokens=3, is_batch=True)
        engine.submit(title.generation)
        time.sleep(0.2)
        assert not context.steps
        other.claim(is_urgent=False)
        title.wait()
    other.close()
    assert title.generated == expected([1, 2, 3], 3)


def test_a_summary_delays_a_stream_by_a_step_in_all() -> None:
    with running_engine(FakeContext(seconds_per_token=0.002)) as (engine, context, _):
        main = Request([1, 2, 3], max_tokens=120)
        engine.submit(main.generation)
        main.next()
        summary = Request([7] * 3000, max_tokens=1, is_batch=True)
        engine.submit(summary.generation)
        main.wait()
        beside = sum(length for rows in context.steps for _, length in rows if length > 3)
        engine.cancel(summary.generation)
    assert 20 <= beside * 0.002 / MOST_DELAY_SECONDS * 100 <= 130


def test_a_prompt_does_not_wait_for_the_same_beginning_of_a_summary_that_rests() -> None:
    with running_engine(FakeContext(seconds_per_token=0.001)) as (engine, _, _):
        stream = Request([1, 2, 3], max_tokens=3000)
        engine.submit(stream.generation)
        stream.next()
        summary = Request([7] * 2000, max_tokens=1, is_batch=True)
        engine.submit(summary.generation)
        time.sleep(0.5)
        main = Request([*[7] * 1000, 5], max_tokens=2)
        engine.submit(main.generation)
        main.wait()
        assert stream.generation.is_running
        for request in (stream, summary):
            engine.cancel(request.generation)


def test_what_somebody_waits_for_does_not_stand_back(tmp_path: Path) -> None:
    other = FileComputeLock(tmp_path / "lock")
    other.claim(is_urgent=True)
    with running_engine(lock=FileComputeLock(tmp_path / "lock")) as (engine, _, _):
        title, main = Request([1, 2, 3], max_tokens=3, is_batch=True), Request([4, 5, 6], max_tokens=3)
        engine.submit(title.generation)
        engine.submit(main.generation)
        main.wait()
        other.claim(is_urgent=False)
        title.wait()
    other.close()
    assert main.generated == expected([4, 5, 6], 3)


def test_a_worker_with_nothing_to_do_claims_nothing(tmp_path: Path) -> None:
    other = FileComputeLock(tmp_path / "lock")
    with running_engine(lock=FileComputeLock(tmp_path / "lock")) as (engine, _, _):
        request = Request([1, 2, 3], max_tokens=3)
        engine.submit(request.generation)
        request.wait()
        deadline = time.monotonic() + 30
        while other.is_claimed_by_others and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not other.is_claimed_by_others
    other.close()
