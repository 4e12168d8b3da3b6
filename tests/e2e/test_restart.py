"""KV state outlives the process that computed it."""

import os
import signal
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.conftest import StartSystem
from tests.e2e.system import System, llama_model, wait_until
from tests.fakes.scripts import GREETING

pytestmark = pytest.mark.e2e
QUESTION = "Hi. " + " ".join(f"This is sentence {number} of a long letter." for number in range(60))


@pytest.fixture
def system(start_system: StartSystem, scripted_chat_model: Path) -> System:
    return start_system(llama_model("scripted", scripted_chat_model, context=8192, slots=2))


def ask(system: System) -> Any:
    with system.client() as client:
        return client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": QUESTION}], temperature=0
        )


def stored_block_count(directory: Path) -> int:
    return sum(path.is_file() and len(path.name) >= 32 for path in directory.rglob("kv/**/*"))


def test_a_prompt_that_was_read_before_the_worker_was_killed_is_not_read_again(system: System, tmp_path: Path) -> None:
    first = ask(system)
    full_blocks = first.usage.prompt_tokens // 256
    assert full_blocks >= 2
    wait_until(lambda: stored_block_count(tmp_path) >= full_blocks, 30, system.tail)
    os.kill(system.pid_of("services.worker"), signal.SIGKILL)
    answers: list[Any] = []

    def is_answered() -> bool:
        try:
            answers.append(ask(system))
        except openai.APIError:
            return False
        return True

    wait_until(is_answered, 60, system.tail)
    details = answers[0].usage.prompt_tokens_details
    assert details.cached_from["disk"] + details.cached_from["ram"] >= full_blocks * 256  # memory may be warmed by now
    assert answers[0].choices[0].message.content == first.choices[0].message.content == GREETING
