"""Reads settings once per process: environment variables over `localcode.toml` over defaults."""

import os
import tomllib
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import platformdirs
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

CONFIG_VARIABLE: Final = "LOCALCODE_CONFIG"


class ConfigurationError(Exception):
    """A setting is wrong; the message names it, and the remedy."""


class ServiceSettings(BaseSettings):
    """Base of all settings: a table of `localcode.toml`, overridden by the environment."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Puts the environment over the values given."""
        return env_settings, init_settings


class LogSettings(ServiceSettings):
    """What is logged, and how: table `[log]`, variables `LOCALCODE_LOG_*`."""

    model_config = SettingsConfigDict(env_prefix="LOCALCODE_LOG_")

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level shown; `debug` adds every chunk of a stream."""
    format: Literal["auto", "pretty", "json"] = "auto"
    """`auto` is pretty in a terminal and JSON lines elsewhere."""
    content: Literal["auto", "none", "preview", "full"] = "auto"
    """How much of prompts and answers is shown; `auto` is `preview` in a terminal and `none` in JSON."""
    directory: Path | None = None
    """Where rotated log files go; unset means none besides the standard error stream."""
    max_file_bytes: int = Field(default=10_000_000, ge=10_000)
    """Size at which a log file is rotated; five old ones are kept."""


def config_path() -> Path | None:
    """Finds `localcode.toml`: as `LOCALCODE_CONFIG` says, else in the working directory, else in the user's own."""
    if named := os.environ.get(CONFIG_VARIABLE):
        path = Path(named)
        if not path.is_file():
            raise ConfigurationError(f"{CONFIG_VARIABLE} names {path}, which is not a file.")
        return path
    candidates = (Path("localcode.toml"), Path(platformdirs.user_config_dir("localcode")) / "localcode.toml")
    return next((path for path in candidates if path.is_file()), None)


def load_document(path: Path | None = None) -> dict[str, Any]:
    """Parses `localcode.toml`; without one, an empty document."""
    path = path or config_path()
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error


S = TypeVar("S", bound=ServiceSettings)


def load_settings(kind: type[S], *table: str, document: dict[str, Any] | None = None) -> S:
    """Builds settings of a kind from a table of the document, such as `("models", "coder")`."""
    values: Any = load_document() if document is None else document
    for name in table:
        values = values.get(name, {})
        if not isinstance(values, dict):
            raise ConfigurationError(f"[{'.'.join(table)}] in localcode.toml must be a table.")
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, ".".join(table), kind)) from error


def _explain(error: ValidationError, table: str, kind: type[ServiceSettings]) -> str:
    prefix = kind.model_config.get("env_prefix", "")
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        lines.append(f"{name} in [{table}] (or {prefix}{name.upper()}): {problem['msg']}")
    return "Wrong configuration. " + "; ".join(lines)
