from typing import Any, cast

from services.worker.compute_lock import NoComputeLock
from services.worker.cost import StepCost, StepShape
from services.worker.kv_pool import KvPool
from services.worker.warm_up import warm_up
from tests.unit.services.worker.fake_llama import FakeContext


def test_it_measures_steps_and_how_much_of_one_a_device_computes_alone(computes_on_a_device: bool) -> None:
    context = FakeContext(seconds_per_step=0.002, seconds_per_token=0.0001)
    pool = KvPool(context, cells=100, sequences=4, parked_sequences=2, parked_cells=0, forks=True)
    cost = StepCost()
    share = warm_up(cast("Any", context), pool, NoComputeLock(), cost, most_tokens=64, most_outputs=4)
    assert share > 0.5 if computes_on_a_device else share < 0.1
    assert 0.002 < (cost.expected_seconds(StepShape.of_row(0, 1, 1)) or 0.0) < 0.004
    assert not context.sequences
