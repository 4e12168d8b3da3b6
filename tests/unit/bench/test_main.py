from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bench.__main__ as main
from bench.report import BEGIN
from bench.results import keep_result, read_results
from bench.workload import Sample
from bench.workloads import WORKLOADS
from tests.unit.bench.test_results import result

RUN = ("run", "steady", "mixed", "--save", "--out")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Workloads that were run; none starts a server, and `steady` fails."""
    names: list[str] = []

    def measure(name: str, *_: Any) -> dict[str, list[list[Sample]]]:
        names.append(name)
        if name == "steady":
            raise RuntimeError("it broke")
        return {"localcode": [[Sample("x", 1, "s", "lower")]]}

    monkeypatch.setattr(main, "_measure", measure)
    return names


def test_all_workloads_are_listed() -> None:
    listed = CliRunner().invoke(main.app, ["list"]).output
    assert all(name in listed for name in WORKLOADS)


def test_a_workload_that_does_not_exist_is_refused(measured: list[str]) -> None:
    assert CliRunner().invoke(main.app, ["run", "steady", "nonsense"]).exit_code == 2
    assert measured == []


def test_a_workload_that_fails_does_not_lose_the_others(measured: list[str], tmp_path: Path) -> None:
    ended = CliRunner().invoke(main.app, [*RUN, str(tmp_path)])
    assert (ended.exit_code, measured) == (1, ["steady", "mixed"])
    assert "it broke" in ended.output
    assert list(read_results(tmp_path / "results.json")) == ["mixed"]


@pytest.mark.usefixtures("measured")
def test_a_quick_run_saves_nothing_by_itself(tmp_path: Path) -> None:
    assert CliRunner().invoke(main.app, ["run", "mixed", "--quick", "--out", str(tmp_path)]).exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_the_report_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / "RESULTS.md").write_text("# Results\n\nBy hand.\n")
    keep_result(tmp_path / "results.json", result("mixed"))
    assert CliRunner().invoke(main.app, ["report", "--out", str(tmp_path)]).exit_code == 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.startswith(f"# Results\n\nBy hand.\n\n{BEGIN}\n")
    assert "### mixed: " in text
