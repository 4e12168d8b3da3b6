"""Makes an engine guess whatever it can, so that tests see guesses on a machine where they would not pay."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.worker.cost import StepCost


class FreeOfCharge(StepCost):
    """Says that the draft model costs nothing."""

    def seconds_of(self, token_count: int, output_count: int, pair_count: int) -> float:
        return 0.0


@contextmanager
def every_guess_looks_worth_making() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.worker.cost.StepCost.seconds_of", lambda _self, count, *_: 1e-3 + 1e-9 * count)
        patch.setattr("services.worker.speculation.acceptance._MATCH_PRIORS", (0.9,) * 5)
        patch.setattr("services.worker.speculation.controller._WORTH_IT", 0.0)
        patch.setattr("services.worker.speculation.draft_model.StepCost", FreeOfCharge)
        yield
