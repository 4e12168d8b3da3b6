"""Records what the installed OpenCode sends: a server answers it by script while it runs one prompt, headless."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from bench.client import Body
from bench.servers.process import free_port
from tests.e2e.opencode_client import PROGRAM, run_opencode

SCENARIO: Final = "opencode"
PROMPT: Final = "Two unit tests fail. Find out why and fix the code."
_CALLS: Final = (
    ("bash", {"command": "ls -R"}),
    ("read", {"filePath": "{directory}/total.py"}),
    ("read", {"filePath": "{directory}/test_total.py"}),
    ("grep", {"pattern": "total", "include": "*.py"}),
)
_ANSWER: Final = "The function `total` started to count at one; that is fixed.\n"
_TITLE: Final = "Fixing two failing tests"
_FILES: Final = {
    "total.py": "def total(numbers: list[int]) -> int:\n    result = 1\n    for number in numbers:\n"
    "        result += number\n    return result\n",
    "test_total.py": "from total import total\n\n\ndef test_of_nothing() -> None:\n    assert total([]) == 0\n\n\n"
    "def test_of_two() -> None:\n    assert total([1, 2]) == 3\n",
    "README.md": "# Totals\n\nAdds numbers.\n",
}


@dataclass
class Recorder:
    """Answers chat requests by script and keeps them."""

    directory: Path
    """Where OpenCode works."""
    requests: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> FastAPI:
        """The endpoint that OpenCode is pointed at."""
        app = FastAPI()

        @app.post("/v1/chat/completions")
        async def answer(request: Request) -> StreamingResponse:
            body = await request.json()
            kept = {name: value for name, value in request.headers.items() if name.startswith("x-")}
            self.requests.append({"kind": kind_of(body, kept), "headers": kept, "body": body})
            return StreamingResponse(_events(next_delta(body, self.directory)), media_type="text/event-stream")

        return app


def kind_of(body: Body, headers: Mapping[str, str]) -> str:
    """Tells requests apart as OpenCode makes them: by the parent's header, the tools and the first words."""
    if "x-parent-session-id" in headers:
        return "sub"
    if body.get("tools"):
        return "main"
    return "title" if str(body["messages"][0]["content"]).startswith("You are a title") else "compaction"


def next_delta(body: Body, directory: Path) -> dict[str, Any]:
    """What the scripted model says next: a call for each turn, then a closing sentence."""
    if not body.get("tools"):
        return {"content": _TITLE}
    done = sum(message["role"] == "tool" for message in body["messages"])
    if done >= len(_CALLS):
        return {"content": _ANSWER}
    name, arguments = _CALLS[done]
    filled = {key: value.format(directory=directory) for key, value in arguments.items()}
    call = {"name": name, "arguments": json.dumps(filled, separators=(",", ":"))}
    return {"tool_calls": [{"index": 0, "id": f"call_{done}", "type": "function", "function": call}]}


async def record(out: Path, program: Path | None = None) -> int:
    """Runs OpenCode once in a small project and writes its requests as a scenario of traces; how many there were."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        project, home = Path(name) / "project", Path(name) / "home"
        project.mkdir()
        for file, text in _FILES.items():
            (project / file).write_text(text)
        recorder = Recorder(project)
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(recorder.app(), host="127.0.0.1", port=port, log_level="warning"))
        serving = asyncio.create_task(server.serve())
        try:
            await asyncio.to_thread(
                run_opencode,
                f"http://127.0.0.1:{port}",
                PROMPT,
                directory=project,
                home=home,
                model="main",
                context=32_768,
                program=(program or find_opencode()).absolute(),
            )
        finally:
            server.should_exit = True
            await serving
    return write_scenario(out / SCENARIO, recorder.requests)


def find_opencode() -> Path:
    """The program on the PATH, else the one that the tests have installed."""
    found = shutil.which("opencode")
    return Path(found) if found else PROGRAM


def write_scenario(directory: Path, requests: list[dict[str, Any]]) -> int:
    """Writes requests as files in the place of an older recording; how many."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for number, request in enumerate(requests, 1):
        path = directory / f"{number:03}-{request['kind']}.json"
        path.write_text(json.dumps({"scenario": directory.name, **request}, indent=1), encoding="utf-8")
    return len(requests)


async def _events(delta: dict[str, Any]) -> AsyncIterator[str]:
    reason = "tool_calls" if "tool_calls" in delta else "stop"
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    for choice in ({"index": 0, "delta": delta}, {"index": 0, "delta": {}, "finish_reason": reason}):
        chunk = {
            "id": "recorded",
            "object": "chat.completion.chunk",
            "model": "main",
            "created": 0,
            "choices": [choice],
        }
        yield f"data: {json.dumps(chunk | {'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"
