"""Reads recorded requests: a folder of scenarios, each a folder of JSON files with `kind`, `headers` and `body`."""

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.client import Body

_DIRECTORY: Final = re.compile(r"Working directory: (\S+)")


@dataclass(frozen=True)
class Recorded:
    """One request as a client sent it."""

    scenario: str
    kind: str
    """`main`, `sub`, `title` or `compaction`."""
    body: Body
    headers: dict[str, str]
    """Those that say which session it belongs to."""


def read_traces(folder: Path) -> dict[str, list[Recorded]]:
    """All scenarios by name, each with its requests in order; what is no chat request is left out."""
    scenarios = {}
    for directory in sorted(path for path in folder.iterdir() if path.is_dir()):
        requests = [recorded for path in sorted(directory.glob("*.json")) for recorded in _read(path)]
        if requests:
            scenarios[directory.name] = requests
    return scenarios


def _read(path: Path) -> Iterator[Recorded]:
    document = json.loads(path.read_text(encoding="utf-8"))
    body: Any = document.get("body")
    body = json.loads(body) if isinstance(body, str) else body
    if isinstance(body, dict) and "messages" in body:
        headers = dict(document.get("headers") or {})
        kept = {name: value for name, value in headers.items() if name.lower().startswith("x-")}
        yield Recorded(path.parent.name, document.get("kind") or "main", body, kept)


def prepared(body: Body, *, model: str, max_tokens: int) -> Body:
    """A copy that is answered shortly and always alike."""
    return {**copy.deepcopy(body), "model": model, "max_tokens": max_tokens, "temperature": 0}


def salted(body: Body, salt: str) -> Body:
    """A copy whose first line is new, so that nothing of it is cached."""
    body = copy.deepcopy(body)
    first = body["messages"][0]
    first["content"] = f"{salt}\n{first['content']}"
    return body


def with_other_end(body: Body, salt: str) -> Body:
    """A copy whose last message begins in another way: as long, and computed anew from there."""
    body = copy.deepcopy(body)
    last = body["messages"][-1]
    last["content"] = f"{salt} {last['content']}"
    return body


def in_directory(body: Body, directory: str) -> Body:
    """A copy that is sent from another working directory."""
    body = copy.deepcopy(body)
    system = body["messages"][0]
    if found := _DIRECTORY.search(system["content"]):
        system["content"] = system["content"].replace(found[1], directory)
    return body


def with_task(body: Body, task: str) -> Body:
    """A copy of a session's first request that asks for something else."""
    body = copy.deepcopy(body)
    body["messages"] = [body["messages"][0], {"role": "user", "content": task}]
    return body
