"""An event loop whose time passes only by what is waited for: a day goes by in seconds."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Value = TypeVar("Value")


class _SkippingSelector(selectors.SelectSelector):
    """Never sleeps: tells how long the loop wanted to."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if ready := super().select(0):
            return ready
        if timeout is None:
            raise RuntimeError("everything waits for something that never happens")
        self.now += max(0.0, timeout)
        return []


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)
        self.set_default_executor(_AtOnce())

    def time(self) -> float:
        return self._skipping.now


class _AtOnce(ThreadPoolExecutor):
    """Does at once what was meant for a thread, which the loop would not wait for."""

    def submit(self, call: Callable[..., Value], /, *args: Any, **named: Any) -> "Future[Value]":
        future: Future[Value] = Future()
        future.set_result(call(*args, **named))
        return future


def run_in_virtual_time(main: Coroutine[Any, Any, Value]) -> Value:
    """Runs a coroutine; all that it waits for by the loop's clock takes no time."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(main)
