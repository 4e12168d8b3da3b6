from pathlib import Path

import pytest

from bench.report import BEGIN, END, columns, markdown, number, put_between_markers, rows
from bench.results import Result, keep_result, read_results
from bench.workload import DETAIL, Sample

MACHINE = {"processor": "A processor", "logical_cores": 2, "memory_gb": 24.0, "load_before": 0.1}


def turn(rate: float, seconds: float) -> list[Sample]:
    return [Sample("decode", rate, "tokens/s", "higher"), Sample("TTFT", seconds, "s", "lower"), Sample("count", 3, "")]


def result(name: str = "steady", **rounds: list[list[Sample]]) -> Result:
    rounds = rounds or {"localcode": [turn(40, 2), turn(60, 3)], "llama-server": [turn(50, 1), turn(50, 1)]}
    return Result(name, "what it is", "2026-11-25", {"rounds": 2}, MACHINE, {"localcode": "abc"}, rounds)


def test_a_result_is_read_back_as_it_was_kept(tmp_path: Path) -> None:
    file = tmp_path / "new" / "results.json"
    keep_result(file, result("steady"))
    keep_result(file, result("mixed"))
    assert read_results(file) == {"steady": result("steady"), "mixed": result("mixed")}


def test_a_workload_measured_again_replaces_its_older_result(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    keep_result(file, result(localcode=[turn(1, 1)]))
    assert keep_result(file, result()) == {"steady": result()}


def test_cells_are_medians_and_ratios_are_taken_round_by_round() -> None:
    assert columns(result()) == ["", "localcode", "llama-server", "localcode ÷ llama-server"]
    assert rows(result()) == [
        ["decode (tokens/s)", "50.00 [40.00, 60.00]", "50.00", "1.00 [0.80, 1.20]"],
        ["TTFT (s)", "2.50 [2.00, 3.00]", "1.00", "2.50 [2.00, 3.00]"],
        ["count", "3", "3", ""],
    ]


def test_a_contestant_that_did_not_measure_something_has_a_dash() -> None:
    lacking = result(localcode=[turn(1, 1)], peer=[[Sample("decode", 2, "tokens/s", "higher")]])
    assert rows(lacking)[1] == ["TTFT (s)", "1.00", "-", "-"]


def test_a_better_ratio_is_bold_whichever_way_is_better() -> None:
    better = result(localcode=[turn(60, 1)], peer=[turn(50, 2)])
    text = markdown([better])
    assert "| **1.20** |" in text
    assert "| **0.50** |" in text
    assert "**" not in markdown([result(localcode=[turn(40, 2)], peer=[turn(50, 1)])])


def test_details_are_kept_but_stand_in_no_table() -> None:
    detailed = result(localcode=[[*turn(1, 1), Sample("tool-001: read", 3, DETAIL)]])
    assert detailed.names() == ["decode", "TTFT", "count"]
    assert detailed.values("localcode", "tool-001: read") == [3]


def test_a_workload_without_a_contestant_is_left_out() -> None:
    assert "###" not in markdown([result(localcode=[])])


def test_the_generated_part_is_added_once_and_then_replaced() -> None:
    first = put_between_markers("# Results\n\nBy hand.\n", "one")
    second = put_between_markers(first + "\nMore by hand.\n", "two")
    assert first == f"# Results\n\nBy hand.\n\n{BEGIN}\n\none\n\n{END}\n"
    assert second == f"# Results\n\nBy hand.\n\n{BEGIN}\n\ntwo\n\n{END}\n\nMore by hand.\n"


def test_a_missing_end_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="missing"):
        put_between_markers(f"text\n{BEGIN}\n", "one")


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(7210.0, "tokens", "7,210"), (0.5, "s", "0.50"), (1234.5, "ms", "1,234"), (7209.5, "tokens", "7,210")],
)
def test_numbers_have_the_digits_that_matter(value: float, unit: str, expected: str) -> None:
    assert number(value, unit) == expected
