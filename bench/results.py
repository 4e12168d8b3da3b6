"""Keeps results as JSON, one entry a workload, so that each can be measured anew by itself."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.workload import DETAIL, Sample


@dataclass(frozen=True)
class Result:
    """What one workload gave, and under which circumstances."""

    workload: str
    about: str
    date: str
    options: Mapping[str, object]
    machine: Mapping[str, object]
    versions: Mapping[str, str]
    rounds: Mapping[str, Sequence[Sequence[Sample]]] = field(default_factory=dict)
    """By contestant, what each round measured."""

    @property
    def contestants(self) -> list[str]:
        """Those that measured anything, ours first."""
        return [name for name, rounds in self.rounds.items() if rounds]

    def names(self) -> list[str]:
        """What was measured, in order, without details."""
        rounds = [turn for name in self.contestants for turn in self.rounds[name]]
        return list(dict.fromkeys(sample.name for turn in rounds for sample in turn if sample.unit != DETAIL))

    def values(self, contestant: str, name: str) -> list[float]:
        """One value a round."""
        rounds = self.rounds.get(contestant, ())
        return [sample.value for turn in rounds for sample in turn if sample.name == name]

    def sample(self, name: str) -> Sample:
        """Any sample of a name, for its unit."""
        rounds = [turn for contestant in self.contestants for turn in self.rounds[contestant]]
        return next(sample for turn in rounds for sample in turn if sample.name == name)


def read_results(path: Path) -> dict[str, Result]:
    """All results kept so far, by workload."""
    if not path.exists():
        return {}
    return {entry["workload"]: _result(entry) for entry in json.loads(path.read_text(encoding="utf-8"))["results"]}


def keep_result(path: Path, result: Result) -> dict[str, Result]:
    """Puts a result in the place of an older one of its workload; all that are kept now."""
    results = {**read_results(path), result.workload: result}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"results": [asdict(kept) for kept in results.values()]}, indent=1)
    temporary = path.with_suffix(".new")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)
    return results


def _result(entry: dict[str, Any]) -> Result:
    rounds = {
        name: [[Sample(**sample) for sample in turn] for turn in turns] for name, turns in entry["rounds"].items()
    }
    return Result(**{**entry, "rounds": rounds})
