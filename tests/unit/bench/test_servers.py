import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from bench.launch import Machinery, Unavailable
from bench.servers.llama_server import command, slot_options
from bench.servers.localcode import configuration
from bench.servers.target import Setup
from bench.workload import OURS, PEER, Contestant, Workload
from bench.workloads import WORKLOADS
from services.router.settings import RouterSettings
from services.worker.settings import WorkerSettings

SETUP = Setup(Path("/models/m.gguf"), threads=2, cells=4096, cache_type="q8_0")
ADDRESSES = {"router": "127.0.0.1:1", "worker": "127.0.0.1:2", "cache": "127.0.0.1:3"}


def test_both_servers_are_given_the_same() -> None:
    table = tomllib.loads(configuration(SETUP, ADDRESSES, {}))["models"]["main"]
    options = command(Path("llama-server"), SETUP, 9)
    pairs = dict(zip(options[1::2], options[2::2], strict=False))
    assert (table["source"], pairs["--model"]) == ("/models/m.gguf", "/models/m.gguf")
    assert (str(table["threads"]), str(table["kv_cells"])) == (pairs["--threads"], pairs["--ctx-size"])
    assert (table["cache_type_k"], str(table["slots"])) == (pairs["--cache-type-k"], pairs["--parallel"])
    assert pairs["--flash-attn"] == "on"
    assert "--kv-unified" in options


def test_the_configuration_is_one_that_the_services_take() -> None:
    setup = Setup(Path("/models/m.gguf"), threads=2, cells=4096, small_model=Path("/models/s.gguf"))
    document = tomllib.loads(configuration(setup, ADDRESSES, {"tool_grammar": False}))
    assert RouterSettings(**document["router"]).class_models == {"title": "small"}
    assert WorkerSettings(**document["models"]["main"]).kv_cells == 4096
    assert not WorkerSettings(**document["models"]["small"]).tool_grammar


def test_the_other_model_gets_all_but_the_ports_of_the_one_whose_place_it_takes() -> None:
    setup = Setup(Path("/models/m.gguf"), threads=2, cells=4096, other_model=Path("/models/o.gguf"))
    models = tomllib.loads(configuration(setup, ADDRESSES, {}, metrics_port=9400))["models"]
    ports = {"listen": ADDRESSES["worker"], "metrics_port": 9400}
    assert {**models["other"], **ports} == {**models["main"], "source": "/models/o.gguf"}


def test_slots_are_saved_in_the_directory_that_outlives_a_restart(tmp_path: Path) -> None:
    assert slot_options(SETUP, tmp_path) == []
    options = slot_options(replace(SETUP, saves_slots=True), tmp_path)
    assert options == ["--slot-save-path", f"{tmp_path}/slots/"]
    assert (tmp_path / "slots").is_dir()


def machinery(tmp_path: Path, **fields: object) -> Machinery:
    values: dict = {"threads": 1, "cells": 1, "cache_type": "f16", "llama_server": None}
    return Machinery(small_model=tmp_path / "s.gguf", main_model=tmp_path / "m.gguf", **values | fields)


async def nothing(*_: object) -> list:
    return []


@pytest.mark.parametrize(
    ("contestant", "fields", "reason"),
    [
        (PEER, {}, "no llama-server"),
        (OURS, {}, r"no file s\.gguf"),
        (Contestant("odd", "localcode", {"no_such_setting": 1}), {}, "no setting no_such_setting"),
        (PEER, {"url": "http://x"}, "not with --url"),
    ],
)
def test_a_contestant_that_cannot_take_part_says_why(
    contestant: Contestant, fields: dict, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(Unavailable, match=reason):
        machinery(tmp_path, **fields).check(contestant, Workload("w", "", nothing))


def test_a_contestant_whose_files_are_here_may_take_part(tmp_path: Path) -> None:
    (tmp_path / "s.gguf").touch()
    machinery(tmp_path).check(OURS, Workload("w", "", nothing))
    with pytest.raises(Unavailable, match=r"no file m\.gguf"):
        machinery(tmp_path).check(Contestant("swaps", "localcode", swaps_models=True), Workload("w", "", nothing))


def test_a_server_that_runs_already_is_never_restarted(tmp_path: Path) -> None:
    running = machinery(tmp_path, url="http://x")
    running.check(OURS, Workload("w", "", nothing))
    with pytest.raises(Unavailable, match="not with --url"):
        running.check(OURS, Workload("w", "", nothing, restarts=True))


def test_every_workload_has_its_own_name_and_ours_comes_first() -> None:
    assert all(name == workload.name for name, workload in WORKLOADS.items())
    assert all(workload.contestants[0].program == "localcode" for workload in WORKLOADS.values())
