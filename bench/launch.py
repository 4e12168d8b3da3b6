"""Starts contestants, each in a new home directory of its own."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.servers.llama_server import running_llama_server
from bench.servers.localcode import running_localcode
from bench.servers.target import Setup, Target, open_http
from bench.workload import Contestant, Workload
from services.worker.settings import WorkerSettings
from tests.fakes.scripted_model import Script, write_scripted_model

_SCRIPT: Final = Script(default="Good morning to you too.")
_SCRIPTED_CELLS: Final = 8192


class Unavailable(Exception):
    """A contestant can't take part; the message says why."""


@dataclass(frozen=True)
class Machinery:
    """What contestants are started with."""

    small_model: Path
    main_model: Path
    threads: int
    cells: int
    cache_type: str
    llama_server: Path | None
    url: str | None = None
    """A server that runs already and takes the place of all contestants."""
    url_model: str = "main"

    def check(self, contestant: Contestant, workload: Workload) -> None:
        """Says in an error why a contestant can't take part."""
        if self.url:
            if workload.model == "scripted" or workload.restarts or contestant != workload.contestants[0]:
                raise Unavailable("not with --url")
            return
        if contestant.program == "llama-server" and self.llama_server is None:
            raise Unavailable("no llama-server on the PATH, and `make bench` has not built one")
        if unknown := set(contestant.settings) - set(WorkerSettings.model_fields):
            raise Unavailable(f"this version has no setting {', '.join(sorted(unknown))}")
        for path in self._files(contestant, workload):
            if not path.is_file():
                raise Unavailable(f"there is no file {path.name}; fetch it with `localcode models pull`")

    @asynccontextmanager
    async def started(self, contestant: Contestant, workload: Workload) -> AsyncIterator[Target]:
        """Runs a contestant until left."""
        if self.url:
            async with open_http(self.url) as http:
                yield Target(http, dict.fromkeys(("main", "small"), self.url_model))
            return
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            setup = self._setup(contestant, workload, Path(name))
            async with AsyncExitStack() as stack:

                async def start() -> Target:
                    await stack.aclose()
                    target = await stack.enter_async_context(self._running(contestant, setup, Path(name)))
                    await _warm_up(target)
                    return replace(target, restart=start)

                yield await start()

    def _running(self, contestant: Contestant, setup: Setup, directory: Path) -> AbstractAsyncContextManager[Target]:
        if contestant.program == "localcode":
            return running_localcode(setup, directory, contestant.settings, workers=contestant.workers)
        assert self.llama_server is not None
        return running_llama_server(self.llama_server, setup, directory)

    def _files(self, contestant: Contestant, workload: Workload) -> list[Path]:
        files = {"small": [self.small_model], "main": [self.main_model], "scripted": []}[workload.model]
        files += [self.small_model] if contestant.two_models else []
        return files + ([self.main_model] if contestant.swaps_models else [])

    def _setup(self, contestant: Contestant, workload: Workload, directory: Path) -> Setup:
        if workload.model == "scripted":
            model, cells = write_scripted_model(directory / "scripted.gguf", _SCRIPT), _SCRIPTED_CELLS
        else:
            model, cells = (self.main_model if workload.model == "main" else self.small_model), self.cells
        return Setup(
            model=model,
            threads=self.threads,
            cells=cells,
            cache_type=self.cache_type,
            slots=workload.slots,
            small_model=self.small_model if contestant.two_models else None,
            other_model=self.main_model if contestant.swaps_models else None,
            saves_slots=contestant.saves_slots,
        )


async def _warm_up(target: Target) -> None:
    """Brings the model's pages into memory before anything is timed."""
    for model in set(target.names):
        messages = [{"role": "user", "content": "Good morning"}]
        await target.chat({"model": model, "messages": messages, "max_tokens": 4, "temperature": 0})
