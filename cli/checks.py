"""What `doctor` looks at, one function a subject."""

import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import psutil
import redis

from cli.accel import compiler_install_line, has_compiler, package_install_line
from cli.config import Configuration, ModelEntry
from cli.console import human_bytes
from cli.engine import Engine
from cli.paths import models_directory, state_directory
from cli.ports import busy_message
from cli.running import RunningServer
from cli.sources import WantedFile, wanted_files
from cli.valkey import find_program

_MEMORY_FACTOR: Final = 1.3
"""What a loaded model takes besides its file: KV cache and compute buffers, roughly."""
_LEAST_FREE_BYTES: Final = 5 * 1000**3


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    level: Literal["ok", "warning", "error"]
    detail: str
    remedy: str = ""


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """Whether this Python is new enough."""
    text = ".".join(str(part) for part in version)
    if version >= (3, 11):
        return Check("Python", "ok", text)
    return Check("Python", "error", f"{text} is too old", "install Python 3.11 or newer")


def check_engine(engine: Engine) -> Check:
    """Whether llama-cpp-python works, and on what."""
    if engine.works:
        return Check("llama-cpp-python", "ok", f"{engine.version} on {', '.join(engine.devices) or 'no device'}")
    return Check(
        "llama-cpp-python", "error", engine.problem, "pip install 'localcode-server[worker]' (it is compiled: minutes)"
    )


def check_compiler(engine: Engine) -> Check:
    """Whether llama.cpp can be compiled here; unimportant once it is."""
    tools = [name for name in ("cc", "c++", "cmake") if shutil.which(name)]
    if has_compiler():
        note = "" if "cmake" in tools else "; pip brings cmake along"
        return Check("Compiler", "ok", ", ".join(tools) + note)
    level: Literal["warning", "error"] = "warning" if engine.works else "error"
    return Check("Compiler", level, "no C/C++ compiler", compiler_install_line())


def check_model_files(models: Sequence[ModelEntry]) -> Iterator[Check]:
    """Whether the files of each local model are here and whole."""
    for model in models:
        for source in model.sources:
            for file in wanted_files(source):
                yield _check_file(model.name, file)


def check_memory(models: Sequence[ModelEntry], available_bytes: int | None = None) -> Check:
    """Whether the local models fit the memory that is free."""
    available = psutil.virtual_memory().available if available_bytes is None else available_bytes
    files = [file for model in models for source in model.sources for file in wanted_files(source)]
    need = int(sum(_size(file) for file in files) * _MEMORY_FACTOR)
    detail = f"{human_bytes(available)} available, about {human_bytes(need)} needed"
    if need <= available:
        return Check("Memory", "ok", detail)
    return Check(
        "Memory", "error", detail, "close programs, run fewer models (localcode up --no-small), or choose smaller ones"
    )


def check_port(host: str, port: int, running: RunningServer | None) -> Check:
    """Whether the port is free, or held by our own server."""
    if running:
        return Check("Port", "ok", f"LocalCode runs at {running.url}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError:
        problem, _, remedy = busy_message(port).partition(". ")
        return Check("Port", "error", problem, remedy)
    return Check("Port", "ok", f"{port} on {host} is free")


def check_redis(configuration: Configuration) -> Check:
    """Whether the configured Redis answers, or the embedded Valkey is here."""
    url = configuration.value("cache", "redis_url")
    if not url:
        if program := find_program():
            return Check("Valkey", "ok", f"embedded ({program.name})")
        return Check(
            "Valkey", "warning", "no embedded Valkey for this platform", "set redis_url in [cache] to a Redis server"
        )
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=3, socket_timeout=3) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        return Check("Redis", "error", f"no answer: {error}", "start it, or correct redis_url in [cache]")
    return Check("Redis", "ok", "answers")


def check_disk() -> Iterator[Check]:
    """Whether there is room for models and state."""
    for name, directory in (("Disk (models)", models_directory()), ("Disk (state)", state_directory())):
        present = next(path for path in (directory, *directory.parents) if path.exists())
        free = shutil.disk_usage(present).free
        if not os.access(present, os.W_OK):
            yield Check(name, "error", f"{present} is not writable", f"make it writable, or move it: {_variable(name)}")
        elif free < _LEAST_FREE_BYTES:
            yield Check(
                name, "warning", f"{human_bytes(free)} free in {present}", f"free some, or move it: {_variable(name)}"
            )
        else:
            yield Check(name, "ok", f"{human_bytes(free)} free in {present}")


def check_client() -> Iterator[Check]:
    """Whether OpenCode and the search tool it needs are here."""
    yield _check_program("opencode", "npm install -g opencode-ai")
    yield _check_program("rg", package_install_line("ripgrep"))


def _check_program(name: str, remedy: str) -> Check:
    path = shutil.which(name)
    return Check(name, "ok", path) if path else Check(name, "warning", "not on PATH", remedy)


def _check_file(model: str, file: WantedFile) -> Check:
    name, pull = f"Model {model}", f"localcode models pull {model}"
    if not file.is_present:
        level: Literal["warning", "error"] = "warning" if file.hub else "error"
        remedy = pull + " (`localcode up` does it too)" if file.hub else "correct `source` in localcode.toml"
        return Check(name, level, f"{file.path} is not here yet" if file.hub else f"there is no {file.path}", remedy)
    size, expected = file.path.stat().st_size, file.catalog.size_bytes if file.catalog else None
    if expected is not None and size != expected:
        return Check(
            name, "error", f"{file.path.name} has {size:,} bytes instead of {expected:,}", f"delete it, then {pull}"
        )
    return Check(name, "ok", f"{file.path.name} ({human_bytes(size)})")


def _size(file: WantedFile) -> int:
    if file.is_present:
        return Path(file.path).stat().st_size
    return file.catalog.size_bytes if file.catalog else 0


def _variable(name: str) -> str:
    return "LOCALCODE_MODELS_DIR" if "models" in name else "LOCALCODE_STATE_DIR"
