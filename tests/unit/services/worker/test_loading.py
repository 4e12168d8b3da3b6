import pytest

from services.worker.llama import LoadFailed
from services.worker.loading import KvSize, kv_size, ram_bytes
from services.worker.settings import WorkerSettings

GIB = 1024**3


def test_the_pool_is_twice_the_context_if_memory_allows() -> None:
    settings = WorkerSettings(context=32768)
    size = kv_size(settings, trained_context=32768, bytes_per_cell=28_700, free_bytes=16 * GIB)
    assert size == KvSize(context=32768, cells=65536, parked_cells=32768)


def test_the_pool_shrinks_to_what_memory_allows_but_not_below_one_context() -> None:
    settings = WorkerSettings(context=32768)
    size = kv_size(settings, trained_context=32768, bytes_per_cell=28_700, free_bytes=1 * GIB)
    assert size.cells == 32768


def test_an_unset_context_is_what_the_model_was_trained_for_or_what_fits() -> None:
    fits = kv_size(WorkerSettings(), trained_context=8192, bytes_per_cell=1000, free_bytes=GIB)
    assert fits.context == 8192
    cut = kv_size(WorkerSettings(), trained_context=1_000_000, bytes_per_cell=28_700, free_bytes=GIB)
    assert cut.context < 20_000


def test_a_context_that_cannot_fit_is_refused_with_the_remedy() -> None:
    settings = WorkerSettings(context=131072)
    with pytest.raises(LoadFailed, match=r"set context \(and kv_cells\) to at most \d+"):
        kv_size(settings, trained_context=131072, bytes_per_cell=28_700, free_bytes=GIB)


def test_an_unset_context_is_no_larger_than_the_pool_that_was_set() -> None:
    size = kv_size(WorkerSettings(kv_cells=16384), trained_context=32768, bytes_per_cell=1000, free_bytes=GIB)
    assert size == KvSize(context=16384, cells=16384, parked_cells=16384)


def test_a_pool_smaller_than_one_context_is_refused() -> None:
    with pytest.raises(LoadFailed, match="set kv_cells to at least 4096"):
        kv_size(WorkerSettings(context=4096, kv_cells=2048), trained_context=8192, bytes_per_cell=1, free_bytes=GIB)


def test_memory_for_blocks_is_a_quarter_of_what_is_free_and_at_most_eight_gigabytes() -> None:
    assert ram_bytes(WorkerSettings(), free_bytes=4 * GIB) == GIB
    assert ram_bytes(WorkerSettings(), free_bytes=400 * GIB) == 8 * 10**9
    assert ram_bytes(WorkerSettings(ram_bytes=0), free_bytes=4 * GIB) == 0
