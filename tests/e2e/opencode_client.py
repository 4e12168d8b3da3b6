"""The real OpenCode, headless and cut off from the network, pointed at a system under test."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PROGRAM: Final = Path(__file__).parent / "opencode/node_modules/.bin/opencode"
_SWITCHED_OFF: Final = ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "SHARE", "DEFAULT_PLUGINS")
_TOOLS: Final = ("bash", "edit", "glob", "grep", "read", "skill", "task", "todowrite", "webfetch")
_NOWHERE: Final = "http://127.0.0.1:9"


@dataclass(frozen=True)
class OpenCodeRun:
    """What a run did."""

    text: str
    tools: list[str]
    log: str


def run_opencode(
    url: str,
    prompt: str,
    *,
    directory: Path,
    home: Path,
    model: str,
    context: int,
    lean: bool = False,
    program: Path = PROGRAM,
) -> OpenCodeRun:
    """Runs one prompt to its end in a directory. `lean` is for the smallest models: a short prompt, no tools."""
    assert program.exists(), "run `make test`, which installs OpenCode"
    assert shutil.which("rg"), "OpenCode needs ripgrep: apt-get install ripgrep"
    home.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(
        [program, "run", "--format", "json", prompt],
        cwd=directory,
        env=_environment(home, _configuration(url, model, context, lean=lean)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    log = result.stdout + result.stderr
    assert result.returncode == 0, log
    events = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    parts: list[dict[str, Any]] = [event["part"] for event in events if "part" in event]
    return OpenCodeRun(
        text="".join(part["text"] for part in parts if part["type"] == "text"),
        tools=[part["tool"] for part in parts if part["type"] == "tool"],
        log=log,
    )


def _configuration(url: str, model: str, context: int, *, lean: bool) -> dict[str, Any]:
    limit = {"context": context, "output": 1024 if lean else 8192}
    configuration: dict[str, Any] = {
        "model": f"local/{model}",
        "small_model": f"local/{model}",
        "enabled_providers": ["local"],
        "autoupdate": False,
        "share": "disabled",
        "provider": {
            "local": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "Local",
                "options": {"baseURL": f"{url}/v1", "apiKey": "any"},
                "models": {model: {"name": model, "tool_call": True, "limit": limit}},
            }
        },
    }
    if lean:
        prompt = "You answer questions of programmers in one short sentence."
        configuration["agent"] = {"build": {"prompt": prompt}}
        configuration["permission"] = dict.fromkeys(_TOOLS, "deny")
    return configuration


def _environment(home: Path, configuration: dict[str, Any]) -> dict[str, str]:
    """Only what a program needs; every request that is not for this machine runs into a dead proxy."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OPENCODE_CONFIG_CONTENT": json.dumps(configuration),
        **{f"OPENCODE_DISABLE_{name}": "1" for name in _SWITCHED_OFF},
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), _NOWHERE),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
    }
