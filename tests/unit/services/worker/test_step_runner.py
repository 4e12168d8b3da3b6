from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

from services.worker.cost import StepShape
from services.worker.step_runner import StepRunner


class Lessons:
    def __init__(self) -> None:
        self.shapes: list[StepShape] = []

    def observe(self, shape: StepShape, seconds: float) -> None:
        self.shapes.append(shape)

    def hang_seconds(self, shape: StepShape) -> float:
        return 60.0


def chunk(computed_count: int, token_count: int) -> Any:
    tokens = list(range(computed_count + token_count))
    generation = SimpleNamespace(sequence_id=0, computed_count=computed_count, tokens=tokens)
    return SimpleNamespace(generation=generation, known_count=token_count, draft=(), output_count=1)


class Order:
    """Of what happens in a step."""

    def __init__(self, lessons: Lessons | None = None) -> None:
        self.seen: list[str] = []
        pool = SimpleNamespace(extend=lambda *_arguments: self.seen.append("book"))
        lock = SimpleNamespace(held=nullcontext)
        self.runner = StepRunner(*cast("Any", (self, pool, lock, lessons or Lessons())))

    def decode(self, rows: list[Any]) -> list[range]:
        self.seen.append("decode")
        return [range(1)] * len(rows)

    def synchronise(self) -> None:
        self.seen.append("synchronise")

    def run(self, *chunks: Any) -> None:
        self.runner.run(chunks, meanwhile=lambda: self.seen.append("meanwhile"))


def test_of_steps_that_are_alike_one_in_four_is_learned_from_and_of_others_each() -> None:
    lessons = Lessons()
    order = Order(lessons)
    order.run(chunk(0, 100))
    for step in range(8):
        order.run(chunk(100 + step, 1))
    order.run(chunk(0, 100))
    assert [shape.token_count for shape in lessons.shapes] == [100, 1, 1, 100]


def test_other_work_is_done_while_a_device_computes_and_also_where_nothing_is_computed() -> None:
    order = Order()
    order.run(chunk(0, 100))
    order.run()
    assert order.seen == ["decode", "meanwhile", "synchronise", "book", "meanwhile"]
