"""Processes die and clients leave: the system says so, recovers, and leaves nothing behind."""

import os
import signal
import time
from pathlib import Path

import openai
import psutil
import pytest

from tests.e2e.conftest import StartSystem
from tests.e2e.system import System, llama_model, wait_until
from tests.fakes.scripts import CHAT_SCRIPT, GREETING

pytestmark = pytest.mark.e2e
ENDLESS = next(branch.answer for branch in CHAT_SCRIPT.branches if branch.is_endless)


@pytest.fixture
def system(start_system: StartSystem, scripted_chat_model: Path) -> System:
    return start_system(llama_model("scripted", scripted_chat_model, context=8192, slots=2))


def endless(client: openai.OpenAI) -> openai.Stream[openai.types.chat.ChatCompletionChunk]:
    return client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "Never stop"}], stream=True
    )


def ask(client: openai.OpenAI) -> str | None:
    answer = client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "Hi"}])
    return answer.choices[0].message.content


def test_a_killed_worker_is_replaced_and_its_successor_goes_on_with_the_answer(system: System, rounds: range) -> None:
    with system.client() as client:
        for _ in rounds:
            worker = system.pid_of("services.worker")
            stream = endless(client)
            said = text_of(next(stream))
            os.kill(worker, signal.SIGKILL)
            for chunk in stream:
                said += text_of(chunk)
                if len(said) > 4000 and running_worker(system) not in {None, worker}:
                    break
            stream.close()
            assert said.strip() == (ENDLESS * (len(said) // len(ENDLESS) + 1))[: len(said)].strip()


def text_of(chunk: openai.types.chat.ChatCompletionChunk) -> str:
    return "".join(choice.delta.content or "" for choice in chunk.choices)


def running_worker(system: System) -> int | None:
    found = [process.pid for process in system.processes() if "services.worker" in process.cmdline()]
    return found[0] if found else None


@pytest.mark.parametrize("module", ["services.router", "services.cache", "edge"])
def test_any_other_killed_process_is_replaced(system: System, module: str) -> None:
    os.kill(system.pid_of(module), signal.SIGKILL)
    with system.client() as client:

        def is_back() -> bool:
            try:
                return ask(client) == GREETING
            except openai.APIError:
                time.sleep(0.2)
                return False

        wait_until(is_back, 30, system.tail)
    wait_until(system.is_well, 30, system.tail)


def test_a_client_that_leaves_frees_its_slot(system: System) -> None:
    with system.client() as client:
        for _ in range(4):  # twice the slots
            stream = endless(client)
            next(stream)
            stream.close()
        started = time.monotonic()
        assert ask(client) == GREETING
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_ends_all_processes_even_while_streaming(system: System, number: signal.Signals) -> None:
    with system.client() as client:
        next(endless(client))
        assert len(system.processes()) >= 5
        system.stop(number)
    assert system.processes() == []


def test_a_killed_supervisor_takes_its_processes_with_it(system: System) -> None:
    os.kill(system.process.pid, signal.SIGKILL)
    system.process.wait()
    wait_until(lambda: not system.processes(), 10, lambda: str(system.processes()))


def test_the_processes_listen_on_loopback_only(system: System) -> None:
    addresses = {
        connection.laddr.ip
        for process in system.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses <= {"127.0.0.1", "::1"}
    assert addresses
