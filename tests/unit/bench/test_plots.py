from pathlib import Path

from bench.plots import draw
from bench.results import Result
from bench.workload import Sample


def result(workload: str, names: tuple[str, ...], better: str) -> Result:
    def turns(factor: float) -> list[list[Sample]]:
        return [
            [Sample(name, factor * (position + number + 1), "s", better) for position, name in enumerate(names)]
            for number in range(2)
        ]

    return Result(workload, "", "", {}, {}, {}, {"localcode": turns(1.0), "llama-server": turns(1.5)})


def test_each_kind_of_result_has_its_plot_and_drawing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    results = {
        "streams": result("streams", ("1 at once", "2 at once", "2 at once over 1"), "higher"),
        "replay": result("replay", ("sum of TTFT", "01 a main: TTFT", "02 a main: TTFT"), "lower"),
    }
    first = {path.name: path.read_bytes() for path in draw(results, tmp_path / "first")}
    second = {path.name: path.read_bytes() for path in draw(results, tmp_path / "second")}
    assert set(first) == {"ratios.svg", "streams.svg", "replay.svg"}
    assert first == second


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    assert draw({}, tmp_path) == []
