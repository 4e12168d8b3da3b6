"""Lets OpenCode send its first prompt ahead of time, so that the server has its KV state when it is needed.

The prompt depends on OpenCode's version, the directory, the date and the person's own rules and agents; only
OpenCode knows it. So OpenCode itself is run once, headless, with one token of output.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cli.console import err
from cli.errors import CommandError
from cli.opencode import PROVIDER, assignments, merged
from cli.server import ServerState

_PROMPT: Final = "Hello"
_QUIET: Final = ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "SHARE")
_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Warmed:
    """What one warm-up took."""

    seconds: float
    prompt_tokens: int
    cached_tokens: int


def warm_with_progress(state: ServerState, directory: Path, key: str, timeout_seconds: float) -> Warmed:
    """Warms, and shows the seconds meanwhile."""
    started = time.monotonic()
    with err.status("Starting OpenCode …") as status:

        def tick() -> None:
            status.update(f"OpenCode's first prompt is being read … {time.monotonic() - started:.0f} s")

        return warm(state, directory, key, tick=tick, timeout_seconds=timeout_seconds)


def warm(state: ServerState, directory: Path, key: str, *, tick: Callable[[], None], timeout_seconds: float) -> Warmed:
    """Runs OpenCode once in the directory; `tick` is called while it works."""
    program = shutil.which("opencode")
    if program is None:
        raise CommandError(
            "`opencode` is not on PATH, and only it knows its prompt. Install it: npm install -g opencode-ai"
        )
    with tempfile.TemporaryDirectory(prefix="localcode-warm-") as scratch:
        started = time.monotonic()
        output = _run(
            _command(program, state, directory),
            _environment(state, key, Path(scratch)),
            directory,
            tick,
            timeout_seconds,
        )
        return read_usage(output, time.monotonic() - started)


def read_usage(output: str, seconds: float) -> Warmed:
    """Reads the token counts from OpenCode's events."""
    for event in _events(output):
        if event.get("type") == "error":
            raise CommandError(f"OpenCode reports: {_error_text(event)}")
        tokens = event.get("part", {}).get("tokens") if event.get("type") == "step_finish" else None
        if tokens:
            cached = int(tokens.get("cache", {}).get("read", 0))
            return Warmed(seconds, int(tokens.get("input", 0)) + cached, cached)
    raise CommandError("OpenCode ended without an answer from the server; `localcode status` shows whether it serves.")


def _command(program: str, state: ServerState, directory: Path) -> list[str]:
    model = f"{PROVIDER}/{state.health.get('model', '')}"
    options = ["--format", "json", "--title", "warm", "--model", model, "--dir", str(directory)]
    return [program, "run", *options, _PROMPT]


def _environment(state: ServerState, key: str, scratch: Path) -> Mapping[str, str]:
    """Keeps the person's own configuration, since it shapes the prompt; sessions go to a throwaway directory."""
    default = str(state.health.get("model", ""))
    document: dict[str, Any] = json.loads(merged("{}", assignments(state.url, state.models, default, needs_key=False)))
    provider = document["provider"][PROVIDER]
    provider["options"]["apiKey"] = key
    for model in provider["models"].values():
        model["limit"]["output"] = 1
    return {
        **os.environ,
        **{f"OPENCODE_DISABLE_{name}": "1" for name in _QUIET},
        "OPENCODE_CONFIG_CONTENT": json.dumps(document),
        "XDG_DATA_HOME": str(scratch / "data"),
        "XDG_STATE_HOME": str(scratch / "state"),
    }


def _run(
    command: list[str],
    environment: Mapping[str, str],
    directory: Path,
    tick: Callable[[], None],
    timeout_seconds: float,
) -> str:
    deadline = time.monotonic() + timeout_seconds
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as output,
        subprocess.Popen(
            command, env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL
        ) as process,
    ):
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise CommandError(
                        f"OpenCode did not end within {timeout_seconds:g} s; give it longer with --timeout."
                    )
                tick()
                time.sleep(_POLL_SECONDS)
        finally:
            process.terminate()
        output.seek(0)
        return output.read()


def _events(output: str) -> list[dict[str, Any]]:
    events = []
    for line in output.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def _error_text(event: Mapping[str, Any]) -> str:
    error = event.get("error", {})
    return str(error.get("data", {}).get("message") or error.get("name") or "an error without a message")
