"""Computing outside of the engine's thread."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_passing_thread(work: Callable[[], T]) -> T:
    """Runs work in a thread that ends with it.

    OpenMP keeps a team of threads for each thread that has computed, as long as that one lives. With more of them than
    cores, libgomp no longer spins at llama.cpp's barriers but sleeps, which costs a quarter of the decode rate (0.5B,
    2 cores). So only the engine's thread may live on after it has computed.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(work).result()
