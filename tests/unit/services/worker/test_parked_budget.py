import pytest

from services.worker.parked_budget import CPU_SHARE, GPU_SHARE, parked_cell_budget


def test_the_budget_is_what_slows_a_step_by_its_share() -> None:
    # A 0.5B model on two cores: 8,192 parked cells made its steps behind as many tokens 1.52 times as long.
    assert parked_cell_budget(1.0, 1.52, 8192, at_most=32_768, share=CPU_SHARE) == pytest.approx(157, abs=2)
    # The 1.5B on an H100: 379 slowed a step by 1 %.
    assert parked_cell_budget(1.0, 1.216, 8192, at_most=32_768, share=GPU_SHARE) == pytest.approx(9481, abs=2)


@pytest.mark.parametrize("loaded_seconds", [0.9, 1.0, 1.009])
def test_where_cells_cost_nothing_all_may_be_parked(loaded_seconds: float) -> None:
    assert parked_cell_budget(1.0, loaded_seconds, 8192, at_most=8192, share=CPU_SHARE) == 8192
