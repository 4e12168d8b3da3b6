"""Draws results as SVG files; needs matplotlib (the extra `bench`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench.results import Result
from bench.stats import Spread, ratios

_SETTINGS: Final[Any] = {"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9}
_PER_REQUEST: Final = (": cached", ": prefilled", ": TTFT")
_MOST_BARS: Final = 60


def draw(results: Mapping[str, Result], directory: Path) -> list[Path]:
    """Draws what there are results for; the files."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(_SETTINGS)
    directory.mkdir(parents=True, exist_ok=True)
    drawn = [_draw_ratios(results, directory), _draw_streams(results, directory), _draw_replay(results, directory)]
    return [path for path in drawn if path]


def _draw_ratios(results: Mapping[str, Result], directory: Path) -> Path | None:
    """How many times better ours is than each other one: over 1 is better, whatever the unit."""
    bars = []
    for result in results.values():
        for other in result.contestants[1:]:
            bars += [(f"{result.workload}: {name}", spread) for name, spread in _advantages(result, other)]
    bars = bars[:_MOST_BARS]
    if not bars:
        return None
    figure, axes = _new_figure(height=1.0 + 0.22 * len(bars))
    medians = [spread.median for _, spread in bars]
    lengths = [median - 1 for median in medians]
    errors = [[s.median - s.low for _, s in bars], [s.high - s.median for _, s in bars]]
    colors = ["tab:green" if median >= 1 else "tab:orange" for median in medians]
    axes.barh([label for label, _ in bars], lengths, left=1, xerr=errors, color=colors, height=0.7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.invert_yaxis()
    axes.set_xlabel("times better than the other one (median, least and most of the rounds)")
    return _save(figure, directory / "ratios.svg")


def _advantages(result: Result, other: str) -> list[tuple[str, Spread]]:
    found = []
    for name in result.names():
        sample = result.sample(name)
        if not sample.better or name.endswith(_PER_REQUEST):
            continue
        quotients = ratios(result.values(result.contestants[0], name), result.values(other, name))
        if sample.better == "lower":
            quotients = [1 / quotient for quotient in quotients if quotient > 0]
        if quotients and min(quotients) > 0:
            suffix = "" if len(result.contestants) == 2 else f" (over {other})"
            found.append((f"{name}{suffix}", Spread.of(quotients)))
    return found


def _draw_streams(results: Mapping[str, Result], directory: Path) -> Path | None:
    result = results.get("streams")
    if result is None:
        return None
    names = [name for name in result.names() if name.endswith("at once")]
    figure, axes = _new_figure(height=3)
    for contestant in result.contestants:
        spreads = [Spread.of(result.values(contestant, name)) for name in names]
        axes.plot([int(name.split()[0]) for name in names], [s.median for s in spreads], marker="o", label=contestant)
    axes.set_xlabel("streams at once")
    axes.set_ylabel("tokens/s in all")
    axes.set_ylim(bottom=0)
    axes.legend()
    return _save(figure, directory / "streams.svg")


def _draw_replay(results: Mapping[str, Result], directory: Path) -> Path | None:
    result = results.get("replay")
    if result is None:
        return None
    names = [name for name in result.names() if name.endswith(": TTFT")]
    figure, axes = _new_figure(height=3)
    for contestant in result.contestants:
        medians = [Spread.of(result.values(contestant, name)).median for name in names]
        axes.plot(range(1, len(names) + 1), medians, marker="o", label=contestant)
    axes.set_xlabel("request of the replayed sessions")
    axes.set_ylabel("TTFT (s)")
    axes.set_ylim(bottom=0)
    axes.legend()
    return _save(figure, directory / "replay.svg")


def _new_figure(*, height: float) -> tuple[Any, Any]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, height), layout="constrained")
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path
