"""What the settings say of memory, threads and cache reaches llama.cpp, and changes no answer."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.worker.settings import WorkerSettings
from tests.fakes.engine import loaded_engine
from tests.fakes.scripts import STORY

pytestmark = pytest.mark.integration

TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
SCRIPT = """
import sys
from pathlib import Path
from tests.fakes.engine import loaded_engine

with loaded_engine(Path(sys.argv[1]), context=512, kv_cells=512, numa=sys.argv[2]) as running:
    asked = running.ask("Tell me a story")
    asked.wait()
    print(asked.text, end="")
"""


def told(model: Path, **settings: Any) -> str:
    with loaded_engine(model, context=512, kv_cells=512, **settings) as running:
        asked = running.ask("Tell me a story", max_tokens=200)
        asked.wait()
        return asked.text


@pytest.fixture(scope="module")
def story(scripted_chat_model: Path) -> str:
    return told(scripted_chat_model)


def test_a_script_tells_its_story(story: str) -> None:
    assert story == STORY


@pytest.mark.parametrize("kind", TYPES)
def test_each_type_of_cached_keys_and_values_is_taken(scripted_chat_model: Path, story: str, kind: str) -> None:
    assert told(scripted_chat_model, cache_type_k=kind, cache_type_v=kind) == story


@pytest.mark.parametrize(
    "settings",
    [{"mmap": False}, {"mlock": True}, {"mmap": False, "mlock": True}, {"gpu_layers": 0}, {"gpu_layers": 1},
     {"threads": 2}, {"cache_type_k": "q8_0", "cache_type_v": "f16"}],
    ids=str,
)  # fmt: skip
def test_where_weights_and_cache_lie_changes_no_answer(
    scripted_chat_model: Path, story: str, settings: dict[str, Any]
) -> None:
    assert told(scripted_chat_model, **settings) == story


@pytest.mark.parametrize("strategy", ["distribute", "isolate", "numactl"])
def test_threads_can_be_placed_on_memory_nodes(scripted_chat_model: Path, story: str, strategy: str) -> None:
    command = [sys.executable, "-c", SCRIPT, str(scripted_chat_model), strategy]  # llama.cpp places a process once
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ran.stdout.endswith(story[:40]) or story in ran.stdout, ran.stderr


def test_a_placement_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="numa"):
        WorkerSettings(numa="everywhere")  # type: ignore[arg-type]
