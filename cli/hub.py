"""Fetches a file from the Hugging Face hub, or a mirror of it, and resumes what was cut off."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx

from cli.catalog import HubFile

_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)
Advance = Callable[[int, int | None], None]
"""Told how many bytes are here, and how many there will be, if known."""


class SourceUnavailable(Exception):
    """This source can't deliver the file now; another may."""


@dataclass(frozen=True)
class HubMetadata:
    """What the hub says of a file before it sends it."""

    size_bytes: int | None
    sha256: str | None


def hub_url(file: HubFile) -> str:
    """The address of a file, on the mirror that `HF_ENDPOINT` names if it does."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{file.repository}/resolve/main/{file.path}"


def fetch_from_hub(file: HubFile, partial: Path, advance: Advance) -> HubMetadata:
    """Completes the partial file. Raises `SourceUnavailable` when the hub can't be reached or has no such file."""
    try:
        with httpx.Client(timeout=_TIMEOUT, headers=_authorization()) as client:
            metadata = _ask(client, hub_url(file))
            if metadata.size_bytes is None or _size(partial) != metadata.size_bytes:
                _download(client, hub_url(file), partial, metadata, advance)
            return metadata
    except httpx.HTTPError as error:
        raise SourceUnavailable(_explain(error, hub_url(file))) from error


def _authorization() -> dict[str, str]:
    token = os.environ.get("HF_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _ask(client: httpx.Client, url: str) -> HubMetadata:
    """The hub answers with a redirect to its store, and says in its headers what the file there is."""
    response = client.head(url, headers={"Accept-Encoding": "identity"})
    if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise SourceUnavailable(f"{url} needs a token: accept the model's terms there and set HF_TOKEN")
    if response.is_error:
        response.raise_for_status()
    own_size = response.headers.get("content-length") if response.is_success else None
    size = response.headers.get("x-linked-size") or own_size
    digest = response.headers.get("x-linked-etag", "").strip('"')
    return HubMetadata(int(size) if size else None, digest if len(digest) == 64 else None)


def _download(client: httpx.Client, url: str, partial: Path, metadata: HubMetadata, advance: Advance) -> None:
    start = _size(partial)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with client.stream("GET", url, headers=headers, follow_redirects=True) as response:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.unlink()  # longer than the file there: nothing of it can be trusted
            raise SourceUnavailable("the partial file doesn't fit the hub's file and was removed; try again")
        response.raise_for_status()
        is_resumed = response.status_code == HTTPStatus.PARTIAL_CONTENT
        done = start if is_resumed else 0
        with partial.open("ab" if is_resumed else "wb") as output:
            for chunk in response.iter_raw():
                output.write(chunk)
                done += len(chunk)
                advance(done, metadata.size_bytes)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _explain(error: httpx.HTTPError, url: str) -> str:
    host = httpx.URL(url).host
    if isinstance(error, httpx.HTTPStatusError):
        return f"{host} answered {error.response.status_code}"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return f"{host} can't be reached"
    return f"{host}: {type(error).__name__}"
