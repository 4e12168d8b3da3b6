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


def test_of_steps_that_are_alike_one_in_four_is_learned_from_and_of_others_each() -> None:
    lessons = Lessons()
    context = SimpleNamespace(decode=lambda rows: [range(1)] * len(rows), synchronise=lambda: None)
    pool = SimpleNamespace(extend=lambda *_arguments: None)
    lock = SimpleNamespace(held=nullcontext)
    runner = StepRunner(*cast("Any", (context, pool, lock, lessons)))
    runner.run([chunk(0, 100)])
    for step in range(8):
        runner.run([chunk(100 + step, 1)])
    runner.run([chunk(0, 100)])
    assert [shape.token_count for shape in lessons.shapes] == [100, 1, 1, 100]
