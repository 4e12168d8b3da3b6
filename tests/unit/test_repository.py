"""Checks on the repository itself: what was generated is current, and nothing of one machine got in."""

import ast
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos"
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
UNWANTED_TEXTS = re.compile(r"(?<![\w./*-])/(?:home|root|Users)/|BEGIN [A-Z ]*PRIVATE KEY")
REGISTRIES = re.compile(r"https?://|registry\.|--(?:extra-)?index-url|--find-links|--trusted-host|file://")


def tracked_files() -> list[Path]:
    """Files that are in the repository or would be with the next `git add`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def texts() -> Iterator[tuple[str, str]]:
    for path in tracked_files():
        data = path.read_bytes()
        if b"\0" not in data and path != Path(__file__):
            yield str(path.relative_to(ROOT)), data.decode()


def test_stubs_are_what_the_protos_generate(tmp_path: Path) -> None:
    names = [str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto")]
    scripts = Path(sysconfig.get_path("scripts"))
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python")]
    outputs += [f"--{kind}_out=quiet:{tmp_path}" for kind in ("mypy", "mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTOS), *plugins, *outputs, *names]
    subprocess.run(command, check=True)
    generated = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.py*")}
    committed = {
        path.relative_to(PROTOS): path.read_text() for path in PROTOS.rglob("*_pb2*.py*") if path.suffix != ".pyc"
    }
    assert len(generated) == 4 * len(names)
    assert generated == committed, "run `make protos`"


def test_no_file_holds_a_path_of_one_machine_or_a_private_key() -> None:
    found = [(name, match.group()) for name, text in texts() for match in UNWANTED_TEXTS.finditer(text)]
    here = [name for name, text in texts() if len(ROOT.parts) > 2 and str(ROOT) in text]
    assert (found, here) == ([], [])


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_file_has_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert not REGISTRIES.search(text)
    pins = re.findall(r"^\S+==\S+.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)+", text, re.MULTILINE)
    assert len(pins) == len(pinned(lock)) > 0


def test_the_npm_lock_names_no_registry() -> None:
    assert not REGISTRIES.search((ROOT / "tests/e2e/opencode/package-lock.json").read_text())


def test_locks_hold_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {
        "base.lock": [*project["dependencies"], *extras["install"]],
        "worker.lock": [*project["dependencies"], *extras["install"], *extras["worker"]],
        "dev.lock": [*project["dependencies"], *extras["install"], *extras["worker"], *extras["dev"]],
        "bench.lock": [*project["dependencies"], *extras["install"], *extras["worker"], *extras["bench"]],
    }
    for name, requirements in wanted.items():
        pins = pinned(ROOT / "requirements" / name)
        for requirement in map(Requirement, requirements):
            assert requirement.specifier.contains(pins[canonical(requirement.name)]), f"run `make lock`: {requirement}"


def test_each_lock_is_part_of_the_next() -> None:
    base, worker, dev = (pinned(ROOT / "requirements" / f"{name}.lock") for name in ("base", "worker", "dev"))
    assert base.items() <= worker.items() <= dev.items()
    assert worker.items() <= pinned(ROOT / "requirements/bench.lock").items()


def test_the_image_compiles_the_engine_that_workers_use() -> None:
    engine = pinned(ROOT / "requirements/engine.lock")
    assert engine.keys() == {"llama-cpp-python"}
    assert engine.items() <= pinned(ROOT / "requirements/worker.lock").items()


def test_all_that_the_image_copies_is_sent_to_its_build() -> None:
    sent = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    assert "requirements/worker.lock" in copied
    assert copied <= set(sent)


def test_the_tools_installed_here_are_the_locked_ones() -> None:
    pins = pinned(ROOT / "requirements/dev.lock")
    assert {name: version(name) for name in ("ruff", "mypy", "grpcio-tools")}.items() <= pins.items()


def test_only_the_worker_and_tests_import_the_engine() -> None:
    importers = {path.relative_to(ROOT).parts[:2] for path in python_files() if "llama_cpp" in imported_modules(path)}
    assert importers == {("services", "worker")}


def test_containers_are_published_on_loopback_only() -> None:
    ports = re.findall(r"^ +ports: (.*)$", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    assert ports == ['["127.0.0.1:4242:4242"]']


def python_files() -> Iterator[Path]:
    for package in ("edge", "services", "cli"):
        yield from (ROOT / package).rglob("*.py")


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def pinned(lock: Path) -> dict[str, str]:
    return {
        canonical(name): release for name, release in re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE)
    }


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
