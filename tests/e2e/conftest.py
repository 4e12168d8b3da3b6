"""The running systems that end-to-end tests share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import openai
import pytest

from tests.e2e.system import System, llama_model

StartSystem = Callable[[str], System]


@pytest.fixture(scope="session")
def chat_system(tmp_path_factory: pytest.TempPathFactory, scripted_chat_model: Path) -> Iterator[System]:
    """One system with the scripted chat model as `scripted`, for tests that break nothing."""
    table = llama_model("scripted", scripted_chat_model, context=8192, slots=4)
    system = System.start(tmp_path_factory.mktemp("system"), table)
    yield system
    system.stop()


@pytest.fixture
def client(chat_system: System) -> Iterator[openai.OpenAI]:
    """OpenAI's SDK, pointed at the shared system."""
    with chat_system.client() as client:
        yield client


@pytest.fixture
def start_system(tmp_path: Path) -> Iterator[StartSystem]:
    """Starts systems of a test's own; each must end well by Ctrl-C unless the test has ended it."""
    with ExitStack() as running:

        def start(configuration: str) -> System:
            system = System.start(tmp_path / "system", configuration)
            running.callback(lambda: system.stop() if system.process.poll() is None else system.kill())
            return system

        yield start
