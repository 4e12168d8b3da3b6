"""llama.cpp's own server, the peer: found on the PATH or in the environment that `make bench` builds."""

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from bench.client import Body
from bench.servers.process import free_port, running
from bench.servers.target import Setup, Target, Tokenize, open_http

_ROOT: Final = Path(__file__).parents[2]
_ENVIRONMENT: Final = _ROOT / ".venv-bench"


def find_llama_server() -> Path | None:
    """The program: first on the PATH, then where `make bench` has put it."""
    if found := shutil.which("llama-server"):
        return Path(found)
    built = sorted(_ENVIRONMENT.glob("lib/python*/site-packages/**/bin/llama-server"))
    return built[0] if built else None


def version_of(program: Path) -> str:
    """What it says of its version, such as `llama-server 11434 (commit)`."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version: (.+)", said.stdout + said.stderr)
    return f"llama-server {found[1].strip()}" if found else "llama-server, version unknown"


@asynccontextmanager
async def running_llama_server(program: Path, setup: Setup, directory: Path) -> AsyncIterator[Target]:
    """Runs it until left. Its prompt cache in RAM stays on, as it is by default."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with (
        running(
            [*command(program, setup, port), *slot_options(setup, directory)],
            log=directory / "llama-server.log",
            environment=os.environ,
            cwd=directory,
            health_url=f"{url}/health",
        ),
        open_http(url) as http,
    ):
        yield Target(
            http, {"main": "main", "small": "main"}, _tokenizer(http), tokenize_text=_text_tokenizer(http),
            saves_slots=setup.saves_slots,
        )  # fmt: skip


def command(program: Path, setup: Setup, port: int) -> list[str]:
    """The command line: one KV cache shared by all slots, flash attention, the model's own chat template."""
    options: dict[str, object] = {
        "--model": setup.model,
        "--alias": "main",
        "--host": "127.0.0.1",
        "--port": port,
        "--threads": setup.threads,
        "--threads-batch": setup.threads,
        "--ctx-size": setup.cells,
        "--parallel": setup.slots,
        "--cache-type-k": setup.cache_type,
        "--cache-type-v": setup.cache_type,
        "--flash-attn": "on",
    }
    return [str(program), *(str(part) for option in options.items() for part in option), "--kv-unified", "--jinja"]


def slot_options(setup: Setup, directory: Path) -> list[str]:
    """Lets slots be saved to files, where that is to be done by hand."""
    if not setup.saves_slots:
        return []
    folder = directory / "slots"
    folder.mkdir(exist_ok=True)
    return ["--slot-save-path", f"{folder}{os.sep}"]


def _tokenizer(http: httpx.AsyncClient) -> Tokenize:
    async def tokenize(body: Body) -> list[int]:
        wanted = {key: body[key] for key in ("messages", "tools", "tool_choice") if key in body}
        rendered = (await http.post("/apply-template", json=wanted)).raise_for_status().json()
        return await _tokens(http, rendered["prompt"], parses_special=True)

    return tokenize


def _text_tokenizer(http: httpx.AsyncClient) -> Callable[[str], Awaitable[list[int]]]:
    async def tokenize(text: str) -> list[int]:
        return await _tokens(http, text, parses_special=False)

    return tokenize


async def _tokens(http: httpx.AsyncClient, text: str, *, parses_special: bool) -> list[int]:
    question: dict[str, Any] = {"content": text, "add_special": parses_special, "parse_special": parses_special}
    tokens: list[int] = (await http.post("/tokenize", json=question)).raise_for_status().json()["tokens"]
    return tokens
