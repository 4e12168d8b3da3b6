"""Describes this server to OpenCode: https://opencode.ai/docs/providers."""

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from cli import jsonc
from cli.catalog import CATALOG
from cli.config import Configuration, ModelEntry
from cli.errors import CommandError
from cli.plan import default_model
from cli.server import ANY_KEY, ServedModel, ServerState, api_key, ask, server_url

PROVIDER: Final = "localcode"
_SCHEMA: Final = "https://opencode.ai/config.json"
_MOST_OUTPUT_TOKENS: Final = 8192
_UNKNOWN_CONTEXT: Final = 32_768
_KEY_FROM_ENVIRONMENT: Final = "{env:LOCALCODE_API_KEY}"

Assignment = tuple[tuple[str, ...], Any, bool]
"""A path, the value for it, and whether a value that is there already stays."""


def assignments(url: str, models: Sequence[ServedModel], default: str, *, needs_key: bool) -> Iterator[Assignment]:
    """All values that make OpenCode use this server."""
    provider = ("provider", PROVIDER)
    yield ("$schema",), _SCHEMA, True
    yield ("model",), f"{PROVIDER}/{default}", False
    yield ("small_model",), f"{PROVIDER}/{small_model(models, default)}", False
    yield (*provider, "npm"), "@ai-sdk/openai-compatible", False
    yield (*provider, "name"), "LocalCode", True
    yield (*provider, "options", "baseURL"), f"{url}/v1", False
    yield (*provider, "options", "apiKey"), _KEY_FROM_ENVIRONMENT if needs_key else ANY_KEY, True
    for model in models:
        path = (*provider, "models", model.name)
        yield (*path, "name"), model.name, True
        yield (*path, "tool_call"), True, True
        yield (*path, "limit"), limit(model.context), False


def opencode_assignments(configuration: Configuration, url: str | None) -> list[Assignment]:
    """The values for the server at `url`, by default this user's; what doesn't run is taken from the configuration."""
    address = (url or server_url(configuration)).rstrip("/")
    try:
        state = ask(address, api_key(configuration))
    except CommandError:
        state = configured_state(configuration, address)
    models = state.models or configured_state(configuration, address).models
    if not models:
        raise CommandError("No model to describe: localcode.toml needs a table [models.<name>].")
    default = str(state.health.get("model") or models[0].name)
    return list(assignments(address, models, default, needs_key=bool(configuration.edge.api_keys)))


def limit(context: int) -> dict[str, int]:
    """What OpenCode has to know of a model's size: it compacts when context minus output is used up."""
    context = context or _UNKNOWN_CONTEXT
    return {"context": context, "output": min(_MOST_OUTPUT_TOKENS, context // 4)}


def small_model(models: Sequence[ServedModel], default: str) -> str:
    """The model for titles: the one called `small` if there is one."""
    return next((model.name for model in models if "small" in (model.name, *model.aliases)), default)


def merged(text: str, wanted: Iterable[Assignment]) -> str:
    """The text of a configuration with the values set; everything else in it stays as it is."""
    document = jsonc.parse(text)
    if not isinstance(document, dict):
        raise jsonc.JsoncError("the document is not an object")
    for path, value, keeps_present in wanted:
        if keeps_present and _has(document, path):
            continue
        text = jsonc.with_value(text, path, value)
        document = jsonc.parse(text)
    enabled = document.get("enabled_providers")
    if isinstance(enabled, list) and PROVIDER not in enabled:
        text = jsonc.with_value(text, ["enabled_providers"], [*enabled, PROVIDER])
    return text


def configuration_file() -> Path:
    """The project's file if there is one, else the user's."""
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "opencode"
    names = ("opencode.json", "opencode.jsonc")
    present = [path for directory in (Path.cwd(), base) for name in names if (path := directory / name).is_file()]
    return present[0] if present else base / "opencode.json"


def merge_into(path: Path, wanted: Iterable[Assignment]) -> Path | None:
    """Changes a file, and returns where its former text is kept, if it had one."""
    path = path.resolve()
    before = _read(path)
    try:
        after = merged(before or "{}\n", wanted)
    except jsonc.JsoncError as error:
        raise CommandError(
            f"{path} can't be read as JSON ({error}); it was left as it is. Correct it, "
            "or paste what `localcode opencode` prints."
        ) from error
    if after == before:
        return None
    backup = _back_up(path) if before is not None else None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(after, encoding="utf-8")
    temporary.replace(path)
    return backup


def configured_state(configuration: Configuration, url: str) -> ServerState:
    """What the server will say of itself when it runs, as far as the configuration tells."""
    models = tuple(
        ServedModel(model.name, model.names[1:], model.context or _unset_context(model), "", 0)
        for model in configuration.models
    )
    return ServerState(url, {"model": default_model(configuration, configuration.models)}, models)


def _unset_context(model: ModelEntry) -> int:
    trained = CATALOG[model.source].context if model.source in CATALOG else _UNKNOWN_CONTEXT
    cells = model.values.get("kv_cells")
    return min(trained, cells) if isinstance(cells, int) else trained


def _has(document: Any, path: Sequence[str]) -> bool:
    for key in path:
        if not isinstance(document, dict) or key not in document:
            return False
        document = document[key]
    return True


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"Can't read {path}: {error}.") from error


def _back_up(path: Path) -> Path:
    backup = path.with_name(f"{path.name}.backup-{time.strftime('%Y%m%d-%H%M%S')}")
    shutil.copy2(path, backup)
    return backup
