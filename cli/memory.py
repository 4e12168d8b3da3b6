"""Estimates what local models take of the machine's memory, before they are loaded."""

from pathlib import Path
from typing import Any, Final

from pydantic import ByteSize, Field
from pydantic_settings import SettingsConfigDict

from cli.config import ModelEntry
from cli.errors import CommandError
from cli.gguf_header import context_length, read_metadata
from cli.residency import Limits
from cli.sources import wanted_files
from services.shared.settings import ServiceSettings

_VALUE_BYTES: Final = {"f32": 4.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32}
_HALF: Final = 2.0
_SHARE_FOR_ENDED: Final = 8
"""Which part of the budget the state of finished conversations takes, of each model that doesn't say."""


class UpSettings(ServiceSettings):
    """How `localcode up` loads models: table `[up]`, variables `LOCALCODE_UP_*`."""

    model_config = SettingsConfigDict(env_prefix="LOCALCODE_UP_")

    memory_budget: ByteSize | None = Field(default=None, gt=0)
    """Memory that loaded models may take, such as "12 GB"; unset loads all of them at start."""
    idle_unload_seconds: float = Field(default=0.0, ge=0)
    """After how long without use a model is unloaded; 0 means never."""

    @property
    def limits(self) -> Limits:
        """What the models of this machine may take."""
        budget = None if self.memory_budget is None else int(self.memory_budget)
        return Limits(budget, self.idle_unload_seconds)


def ram_bytes(model: ModelEntry, budget: int | None) -> int | None:
    """Host memory for finished conversations; under a budget it is a part of that, unless the model's table says it."""
    configured = model.values.get("ram_bytes")
    if isinstance(configured, int):
        return configured
    return None if budget is None else budget // _SHARE_FOR_ENDED


def model_bytes(model: ModelEntry, budget: int | None) -> int:
    """Files, KV cells and the state of finished conversations of one model, its draft model's included."""
    size = sum(_loaded_bytes(model, source) for source in model.sources)
    return size + (ram_bytes(model, budget) or 0)


def _loaded_bytes(model: ModelEntry, source: str) -> int:
    files = [file.path for file in wanted_files(source)]
    return sum(_file_bytes(path) for path in files) + _kv_bytes(model, read_metadata(files[0]))


def _kv_bytes(model: ModelEntry, metadata: dict[str, Any]) -> int:
    context = model.context or context_length(metadata) or 0
    cells = model.values.get("kv_cells") or 2 * context
    values = model.values
    return int(int(cells) * cell_bytes(metadata, str(values.get("cache_type_k")), str(values.get("cache_type_v"))))


def cell_bytes(metadata: dict[str, Any], type_k: str, type_v: str) -> float:
    """What one token's keys and values take over all layers, as the file's metadata has it."""
    prefix = metadata.get("general.architecture", "")

    def number(key: str, default: float) -> float:
        value = metadata.get(f"{prefix}.{key}")
        return value if isinstance(value, int) else default

    heads = number("attention.head_count", 1)
    size = number("embedding_length", 0) / max(heads, 1)
    keys = number("attention.key_length", size) * _VALUE_BYTES.get(type_k, _HALF)
    values = number("attention.value_length", size) * _VALUE_BYTES.get(type_v, _HALF)
    return number("block_count", 0) * number("attention.head_count_kv", heads) * (keys + values)


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise CommandError(f"Can't read {path}: {error.strerror}.") from error
