"""KV state in llama.cpp itself: what leaves the cells comes back, nothing leaks, and texts stay what they are alone."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest

from tests.fakes.engine import LoadedEngine, loaded_engine
from tests.fakes.scripts import CHAT_SCRIPT

pytestmark = pytest.mark.integration

FILLER = "the file has the lines that the user wrote and the tool read them in order to edit one line at a time "


def prompt(topic: str, trigger: str, *, repeats: int) -> str:
    return f"<|im_start|>user\n{topic} {FILLER * repeats}{trigger}<|im_end|>\n<|im_start|>assistant\n"


def lengths_in_llama(running: LoadedEngine) -> dict[int, int]:
    """Tokens that llama.cpp holds, by sequence."""
    handle = running.loaded.context.handle
    memory = llama_cpp.llama_get_memory(handle)
    last = {one: llama_cpp.llama_memory_seq_pos_max(memory, one) for one in range(llama_cpp.llama_n_seq_max(handle))}
    return {one: position + 1 for one, position in last.items() if position >= 0}


@pytest.fixture
def crowded(scripted_chat_model: Path) -> Iterator[LoadedEngine]:
    with loaded_engine(
        scripted_chat_model, context=2000, kv_cells=2048, slots=4, parked_sequences=8, ram_bytes=50_000_000
    ) as running:
        yield running


def test_of_64_crowded_requests_all_that_are_not_cancelled_say_what_they_say_alone(crowded: LoadedEngine) -> None:
    chance = random.Random(11)
    branches = [branch for branch in CHAT_SCRIPT.branches if not branch.is_endless and "Tell me" not in branch.trigger]
    asked, answers, cancelled = [], [], set(chance.sample(range(64), 16))
    for number in range(64):
        branch = chance.choice(branches)
        topic = chance.choice(["first", "second", "third", f"number {number}"])
        asked.append(crowded.ask(prompt(topic, branch.trigger, repeats=chance.randint(0, 15))))
        answers.append(branch.answer)
    for number in sorted(cancelled):
        time.sleep(chance.random() * 0.02)
        crowded.engine.cancel(asked[number].generation)
    for number, one in enumerate(asked):
        if number not in cancelled:
            one.wait()
            assert one.text == answers[number]
    crowded.engine.stop()
    pool = crowded.loaded.pool
    assert lengths_in_llama(crowded) == pool.lengths()
    pool.drop_parked()
    assert pool.used_cells == 0
    assert lengths_in_llama(crowded) == {}


def test_a_conversation_pushed_out_of_the_cells_comes_back_from_memory(crowded: LoadedEngine) -> None:
    story = next(branch for branch in CHAT_SCRIPT.branches if branch.trigger == "Tell me a story")
    first = crowded.ask(prompt("mine", story.trigger, repeats=15))
    first.wait()
    for number in range(4):
        crowded.ask(prompt(f"other {number}", "Hi", repeats=15)).wait()
    again = crowded.ask([*first.generation.tokens, *crowded.tokens("<|im_end|>\n<|im_start|>assistant\n")])
    usage = again.wait().usage
    assert usage.cached_from.ram_token_count > 512
    assert usage.cached_token_count >= len(first.generation.tokens) - 1
    assert again.text == story.answer
