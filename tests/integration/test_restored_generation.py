"""Real models: what goes on from restored state says, token for token, what it says when nothing comes in between.

State is restored in order into an empty context, from the blocks that the uninterrupted run saved. In another order of
cells, or computed in batches of other sizes, logits differ by rounding, and so may texts.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.shared.sealing import BlockHeader, BlockRole, open_block, seal_block
from services.worker.blocks import Block
from tests.fakes.block_store import KEYS
from tests.fakes.engine import LoadedEngine, loaded_engine
from tests.fakes.real_models import pulled_model

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

TEXT = (
    "def read_lines(path):\n    with open(path) as file:\n        return [line.rstrip() for line in file]\n\n\n"
    "class Counter:\n    def __init__(self):\n        self.counts = {}\n\n    def add(self, word):\n"
)
MOST_TOKENS = 40
CUTS = (1, 9, 30)
"""How much of the answer is restored with its prompt."""
WINDOW = "gemma3.attention.sliding_window"


@pytest.fixture(scope="module")
def windowed_model() -> Path:
    """The real Gemma-3-270m."""
    return pulled_model("gemma-3-270m")


@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
def test_a_restored_conversation_goes_on_as_if_nothing_had_happened(real_model: Path, cache_type: str) -> None:
    check(real_model, cache_type, prompt_count=400)


@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
@pytest.mark.parametrize("window", [512, 64])
def test_with_a_sliding_window_it_goes_on_likewise(windowed_model: Path, cache_type: str, window: int) -> None:
    overrides = {} if window == 512 else {WINDOW: window}
    check(windowed_model, cache_type, prompt_count=700, window=window, metadata_overrides=overrides)


def check(model: Path, cache_type: str, *, prompt_count: int, window: int = 0, **settings: Any) -> None:
    """Answers once, and then from restored state, cut at several places of the answer."""
    engine = partial(an_engine, model, cache_type_k=cache_type, cache_type_v=cache_type, **settings)
    saved: list[Block] = []
    with engine() as running:
        assert running.loaded.model.window == window
        assert running.loaded.ram is not None
        running.loaded.ram.on_put = saved.append
        prompt = running.tokens(TEXT * (1 + prompt_count // 50))[:prompt_count]
        assert len(prompt) == prompt_count
        asked = running.ask(prompt, max_tokens=MOST_TOKENS)
        asked.wait()
        whole = asked.generation.tokens
        until_saved(running)
    assert len(whole) > prompt_count + CUTS[-1]
    with engine() as running:
        for cut in CUTS:
            assert said_after_restoring(running, saved, whole, prompt_count + cut) == whole


def an_engine(model: Path, **settings: Any) -> AbstractContextManager[LoadedEngine]:
    return loaded_engine(
        model, context=1024, kv_cells=1024, slots=2, parked_sequences=4, parked_cells=1024, batch_tokens=64,
        ram_bytes=200_000_000, threads=2, **settings,
    )  # fmt: skip


def until_saved(running: LoadedEngine) -> None:
    while running.engine.call(lambda: running.loaded.pool.is_untidy).result():
        pass


def said_after_restoring(running: LoadedEngine, saved: Sequence[Block], whole: list[int], count: int) -> list[int]:
    """Goes on behind so many tokens, whose state is restored into an empty context; all tokens then."""
    loaded = running.loaded

    def fill() -> None:
        loaded.pool.drop_parked()
        loaded.context.clear()
        assert loaded.ram is not None
        loaded.ram.clear()
        for block in saved:
            loaded.ram.keep(from_disk(block, loaded.fingerprint))

    running.engine.call(fill).result()
    asked = running.ask(whole[:count], max_tokens=len(whole) - count)
    usage = asked.wait().usage
    assert usage.cached_from.ram_token_count == count - 1
    return asked.generation.tokens


def from_disk(block: Block, fingerprint: bytes) -> Block:
    """A block as it comes back from the store."""
    header = BlockHeader(block.parent, block.tokens.astype("<i4").tobytes(), 1.0, BlockRole.CONVERSATION)
    sealed = seal_block(block.hash, header, block.data.data, fingerprint=fingerprint, keyring=KEYS)
    opened = open_block(sealed, block.hash, fingerprint=fingerprint, keyring=KEYS)
    assert opened is not None
    assert opened[0] == header
    return Block(block.hash, block.parent, block.tokens, np.frombuffer(opened[1], np.uint8), block.recompute_seconds)
