from pathlib import Path

import pytest

from cli.config import ModelEntry
from cli.errors import CommandError
from cli.memory import UpSettings, cell_bytes, model_bytes, ram_bytes
from cli.model_plans import plan_models
from cli.plan import Service
from cli.residency import Limits
from cli.supervisor import ChildSpec
from services.shared.settings import ConfigurationError, load_settings
from tests.fakes.scripted_model import write_scripted_model
from tests.fakes.scripts import CHAT_SCRIPT

QWEN = {
    "general.architecture": "qwen2", "qwen2.block_count": 24, "qwen2.embedding_length": 896,
    "qwen2.attention.head_count": 14, "qwen2.attention.head_count_kv": 2,
}  # fmt: skip


def test_a_token_takes_what_llama_cpp_takes_for_it() -> None:
    assert cell_bytes(QWEN, "f16", "f16") == 24 * 2 * (64 + 64) * 2
    assert cell_bytes(QWEN, "q8_0", "q8_0") == pytest.approx(24 * 2 * 128 * 34 / 32)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scripted_model(tmp_path_factory.mktemp("models") / "tiny.gguf", CHAT_SCRIPT)


def entry(file: Path, name: str = "tiny", **values: object) -> ModelEntry:
    return ModelEntry(name, "llama", {"source": str(file), "context": 1000, **values})


def test_a_model_takes_its_file_its_cells_and_what_it_remembers(file: Path) -> None:
    cell = cell_bytes({"general.architecture": "llama", "llama.block_count": 1, "llama.attention.head_count": 6,
                       "llama.attention.head_count_kv": 1, "llama.attention.key_length": 64,
                       "llama.attention.value_length": 64, "llama.embedding_length": 256}, "f16", "f16")  # fmt: skip
    size = file.stat().st_size
    assert model_bytes(entry(file, ram_bytes=500), None) == size + 2000 * cell + 500
    assert model_bytes(entry(file, kv_cells=3000), 8000) == size + 3000 * cell + 1000


def test_under_a_budget_the_memory_for_finished_conversations_is_bounded_too(file: Path) -> None:
    assert ram_bytes(entry(file), None) is None
    assert ram_bytes(entry(file), 8000) == 1000
    assert ram_bytes(entry(file, ram_bytes=0), 8000) == 0


def test_a_budget_may_have_a_unit() -> None:
    settings = load_settings(UpSettings, "up", document={"up": {"memory_budget": "12 GB"}})
    assert settings.limits.memory_bytes == 12 * 10**9


@pytest.mark.parametrize("table", [{"memory_budget": "much"}, {"idle_unload_seconds": -1}, {"memory": 3}])
def test_a_wrong_setting_is_named(table: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=rf"{next(iter(table))} in \[up\]"):
        load_settings(UpSettings, "up", document={"up": table})


def test_a_model_that_can_never_be_loaded_is_an_error_with_the_sizes(file: Path) -> None:
    models = [entry(file, "small", pinned=True, ram_bytes=0), entry(file, "coder", ram_bytes=0)]
    services = [Service(ChildSpec(model.name, (), {}), model.name, model.name) for model in models]
    size = model_bytes(models[0], 1)
    assert len(plan_models(models, services, Limits(2 * size))) == 2
    with pytest.raises(CommandError, match=r"too little for coder beside what is pinned: small .* \(pinned\), coder"):
        plan_models(models, services, Limits(2 * size - 1))
